// Command dockerfile-frontend asks BuildKit's own Dockerfile frontend which images a build uses.
//
// It reads one build per line from its standard input, as JSON, and writes one answer per line. It
// ends early after a build whose answer would take too long. Nothing is built: a gateway in this
// program answers the frontend's requests.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/sourcepolicy"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// maxLine is the maximum length of a line of the input, in bytes.
const maxLine = 16 << 20

// maxRequests is the maximum number of images that the frontend may ask for. With ONBUILD triggers
// that name each other, it asks for ever.
const maxRequests = 100

// timeout is the maximum duration of the frontend. It takes milliseconds.
const timeout = 10 * time.Second

// endless is the error of a build that exceeds it.
const endless = "BuildKit does not come to an end"

// build is a line of the input.
type build struct {
	Dockerfile string            `json:"dockerfile"`
	Args       map[string]string `json:"args"`
	Target     string            `json:"target"`
	Platform   string            `json:"platform"`
	// Contexts are the named contexts: references by name.
	Contexts map[string]string `json:"contexts"`
	// Triggers are the ONBUILD triggers of images, by their full reference.
	Triggers map[string][]string `json:"triggers"`
	// Policy decides which sources the build may use. Without one, it may use all.
	Policy *spb.Policy `json:"policy"`
}

// answer is a line of the output.
type answer struct {
	// Images are the full references of the images that the build uses.
	Images []string `json:"images"`
	// Denied are the sources of the build that the policy refuses. BuildKit would stop at the first.
	Denied []string `json:"denied"`
	// Error is why BuildKit rejects the Dockerfile; empty if it does not.
	Error string `json:"error"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, maxLine)
	output := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(output)
	for lines.Scan() {
		var b build
		if err := json.Unmarshal(lines.Bytes(), &b); err != nil {
			fmt.Fprintln(os.Stderr, "dockerfile-frontend: a line is no build:", err)
			os.Exit(1)
		}
		done := make(chan answer, 1)
		go func() { done <- use(b) }()
		var a answer
		select {
		case a = <-done:
		case <-time.After(timeout):
			a.Error = endless
		}
		if err := errors.Join(encoder.Encode(a), output.Flush()); err != nil {
			os.Exit(1)
		}
		if a.Error == endless {
			// Nothing else ends a goroutine.
			os.Exit(0)
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "dockerfile-frontend:", err)
		os.Exit(1)
	}
}

// use returns the answer for a build.
func use(b build) answer {
	sources, err := sourcesOf(b)
	if err != nil {
		return answer{Error: err.Error()}
	}
	a := answer{}
	engine := sourcepolicy.NewEngine([]*spb.Policy{b.Policy})
	for _, source := range sources {
		if image, ok := strings.CutPrefix(source, dockerImage); ok {
			a.Images = append(a.Images, image)
		}
		if b.Policy == nil {
			continue
		}
		_, err := engine.Evaluate(context.Background(), &pb.SourceOp{Identifier: source})
		if errors.Is(err, sourcepolicy.ErrSourceDenied) {
			a.Denied = append(a.Denied, source)
		} else if err != nil {
			return answer{Error: err.Error()}
		}
	}
	return a
}

// dockerImage is the scheme of the sources that are images.
const dockerImage = "docker-image://"

// sourcesOf returns the sources that a build uses: the images whose configuration the frontend
// reads, and the sources of the graph that it returns.
func sourcesOf(b build) (sources []string, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("panic: %v", problem)
		}
	}()
	platform, err := platforms.Parse(b.Platform)
	if err != nil {
		return nil, err
	}
	opts := map[string]string{"platform": b.Platform, "target": b.Target}
	for name, value := range b.Args {
		opts["build-arg:"+name] = value
	}
	for name, reference := range b.Contexts {
		opts["context:"+name] = dockerImage + reference
	}
	gw := &gateway{opts: opts, platform: platform, triggers: b.Triggers, sources: map[string]struct{}{}}
	ui, err := dockerui.NewClient(gw)
	if err != nil {
		return nil, err
	}
	result, err := dockerfile2llb.Dockerfile2LLB(context.Background(), []byte(b.Dockerfile), dockerfile2llb.ConvertOpt{
		Config:         ui.Config,
		Client:         ui,
		TargetPlatform: &ui.TargetPlatforms[0],
		MetaResolver:   gw,
		Warn:           func(string, string, string, string, []parser.Range) {},
	})
	if err != nil {
		return nil, err
	}
	definition, err := result.State.Marshal(context.Background())
	if err != nil {
		return nil, err
	}
	for _, bytes := range definition.Def {
		var op pb.Op
		if err := op.UnmarshalVT(bytes); err != nil {
			return nil, err
		}
		if source := op.GetSource().GetIdentifier(); source != "" {
			gw.sources[source] = struct{}{}
		}
	}
	for source := range gw.sources {
		sources = append(sources, source)
	}
	slices.Sort(sources)
	return sources, nil
}

// gateway answers the frontend: every image exists, and the build context is empty.
type gateway struct {
	opts     map[string]string
	platform ocispecs.Platform
	triggers map[string][]string

	mutex    sync.Mutex
	sources  map[string]struct{}
	requests int
}

func (g *gateway) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.sources[dockerImage+ref] = struct{}{}
	if g.requests++; g.requests > maxRequests {
		return "", "", nil, errors.New("too many images")
	}
	// With a layer: an image without any is the same as scratch.
	config, err := json.Marshal(map[string]any{
		"os":           g.platform.OS,
		"architecture": g.platform.Architecture,
		"variant":      g.platform.Variant,
		"config":       map[string]any{"OnBuild": g.triggers[ref]},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{digest.FromString(ref).String()}},
	})
	return ref, "", config, err
}

func (g *gateway) BuildOpts() client.BuildOpts {
	return client.BuildOpts{
		Opts:    g.opts,
		Workers: []client.WorkerInfo{{Platforms: []ocispecs.Platform{g.platform}}},
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()),
		Caps:    gwpb.Caps.CapSet(gwpb.Caps.All()),
	}
}

// Solve is called for the files of the build context that the frontend reads itself, such as
// .dockerignore.
func (g *gateway) Solve(context.Context, client.SolveRequest) (*client.Result, error) {
	result := client.NewResult()
	result.SetRef(empty{})
	return result, nil
}

func (g *gateway) ResolveSourceMetadata(context.Context, *pb.SourceOp, sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	return nil, errUnsupported
}

func (g *gateway) Inputs(context.Context) (map[string]llb.State, error) {
	return nil, nil
}

func (g *gateway) NewContainer(context.Context, client.NewContainerRequest) (client.Container, error) {
	return nil, errUnsupported
}

func (g *gateway) Warn(context.Context, digest.Digest, string, client.WarnOpts) error {
	return nil
}

var errUnsupported = errors.New("not supported without a builder")

// empty is a file system without files.
type empty struct{}

func (empty) ToState() (llb.State, error)    { return llb.Scratch(), nil }
func (empty) Evaluate(context.Context) error { return nil }
func (empty) ReadFile(context.Context, client.ReadRequest) ([]byte, error) {
	return nil, os.ErrNotExist
}
func (empty) StatFile(context.Context, client.StatRequest) (*fstypes.Stat, error) {
	return nil, os.ErrNotExist
}
func (empty) ReadDir(context.Context, client.ReadDirRequest) ([]*fstypes.Stat, error) {
	return nil, os.ErrNotExist
}
