/* The first process of a pod: holds its namespaces, reaps orphans, and ends when it gets a signal
   to. */
# include <signal.h>
# include <stdlib.h>
# include <sys/wait.h>
# include <unistd.h>

static void end(int signal) { (void)signal; exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, NULL, WNOHANG) > 0) {} }

int main(void) {
  signal(SIGINT, end);
  signal(SIGTERM, end);
  signal(SIGCHLD, reap);
  for (;;) pause();
}
