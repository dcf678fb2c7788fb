// A Git server for dev/self-build: read-only, over HTTPS, with a certificate that it makes itself.
//
//	go run git-server.go -listen ADDRESS:PORT -root FOLDER -certificate FILE
//
// Serves the bare repositories in FOLDER with `git http-backend`. Writes its certificate to FILE
// before it listens, so that clients can trust it.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Returns a certificate for an IP address that is its own authority, and its PEM.
func selfSigned(address net.IP) (tls.Certificate, []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	now := time.Now()
	template := x509.Certificate{
		SerialNumber:          big.NewInt(now.UnixNano()),
		Subject:               pkix.Name{CommonName: "groundswell dev/self-build"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses:           []net.IP{address},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	check(err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, text
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	log.SetPrefix("[git-server] ")
	listen := flag.String("listen", "", "IP address and port")
	root := flag.String("root", "", "folder of the repositories")
	file := flag.String("certificate", "", "file for the certificate")
	flag.Parse()
	host, _, err := net.SplitHostPort(*listen)
	check(err)
	git, err := exec.Command("git", "--exec-path").Output()
	check(err)
	certificate, text := selfSigned(net.ParseIP(host))
	listener, err := net.Listen("tcp", *listen)
	check(err)
	check(os.WriteFile(*file, text, 0o644))
	server := http.Server{
		Handler: &cgi.Handler{
			Path: filepath.Join(strings.TrimSpace(string(git)), "git-http-backend"),
			Env:  []string{"GIT_PROJECT_ROOT=" + *root, "GIT_HTTP_EXPORT_ALL=1"},
		},
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}},
		ReadHeaderTimeout: 10 * time.Second,
	}
	check(server.ServeTLS(listener, "", ""))
}
