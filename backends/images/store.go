// Package images keeps images in the containers-storage layout, so that
// podman, skopeo and buildah see the same ones, and gets them from registries.
//
// A pull has three parts, each a call of its own so that actors can share and
// watch them: Resolve (reference, credentials, manifest, policy), Fetch (one
// layer, as a stream from the registry to files beside the store) and Commit
// (the layers become the store's by a rename each, then the record).
// Data is on disk before a layer is recorded, so that a power cut cannot leave
// a recorded layer of empty files (cri-o's PR 3999, containerd#5854). Transports, credentials, registries.conf and policy.json are the
// field's library go.podman.io/image; layers and records are
// go.podman.io/storage's. Names and keys in the store are those that the
// library's own storage transport uses.
package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/backends/gate"
	"github.com/troupe-run/troupe/messages"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/reexec"
)

// Config says where images are kept and how registries are met. The options
// named after crio.conf(5) mean what they mean there.
type Config struct {
	GraphRoot, RunRoot string   // containers-storage root and runroot; no ':' in GraphRoot
	ImageStore         string   // imagestore: images are kept here instead of in GraphRoot
	StorageOptions     []string // of the overlay driver, e.g. "overlay.mountopt=nodev"

	BlobDir string // cache of downloaded layers; empty: GraphRoot/troupe-blobs

	RegistriesConf, RegistriesConfDir string // empty: /etc/containers/registries.conf and .d
	RegistriesDir                     string // registries.d (where signatures are); empty: the system's
	PolicyPath                        string // signature_policy; empty: /etc/containers/policy.json if there
	PolicyDir                         string // signature_policy_dir: <namespace>.json in it goes before PolicyPath
	AuthFile                          string // global_auth_file; empty: the user's usual ones
	AuthDir                           string // namespaced_auth_dir: auth files for one pull each
	CertsDir                          string // certs.d with a folder per host:port; empty: the system's

	InsecureRegistries   []string      // insecure_registries: host[:port] or CIDR
	BigFilesTemporaryDir string        // big_files_temporary_dir
	PullProgressTimeout  time.Duration // pull_progress_timeout; 0: never
	MinFree              uint64        // bytes that no pull may take of the store's file system
	PinnedImages         []string      // pinned_images: exact, "prefix*", or "*keyword*"
	ShortNameMode        string        // enforcing (the default), permissive, disabled
	DecryptionKeys       string        // decryption_keys_path: folder of private keys for encrypted layers
	NoArtifactMounts     bool          // oci_artifact_mount_support = false

	Log *slog.Logger
}

// imageRoot is the directory, and so the disk, that images are on.
func (c Config) imageRoot() string {
	if c.ImageStore != "" {
		return c.ImageStore
	}
	return c.GraphRoot
}

// Init must be the first call in main of every program that uses this package:
// the storage library runs that program again to unpack layers inside a
// chroot. When Init is true, that work was done and main must return.
func Init() bool { return reexec.Init() }

// Store is the image store and the way to registries.
type Store struct {
	cfg   Config // of the start; what can be reloaded is in rules
	log   *slog.Logger
	store storage.Store
	rules atomic.Pointer[rules]

	blobLocks  keyed // by blob digest: one download at a time
	layerLocks keyed // by layer id: one unpack at a time
	layers     *holds
	artifacts  artifacts
	cores      *gate.Gate // who unpacks
	syncs      syncs
	space      ledger
	behind     sync.WaitGroup // what Close waits for

	signing      sync.Mutex // one record's metadata is read and written at a time
	resolveLimit time.Duration

	mu       sync.Mutex
	facts    map[string]facts  // by image id
	unlisted map[string]string // by image id: why it is damaged, which has been said
	files    map[string]inodes // by layer id
	filesNew bool              // and not yet in their file
	swept    time.Time

	staged   map[string]*stagedLayer // by blob digest
	unsynced int64                   // bytes of what was staged since a sync was asked for
}

var _ backends.Images = (*Store)(nil)

// New opens the store, making it when there is none, and clears what a daemon
// that was killed in the middle of a pull has left.
func New(cfg Config) (*Store, error) {
	if cfg.GraphRoot == "" || cfg.RunRoot == "" {
		return nil, messages.Errorf(messages.Invalid, "image store: root and runroot must both be set")
	}
	if strings.Contains(cfg.imageRoot(), ":") {
		return nil, messages.Errorf(messages.Invalid, "image store: root %q: a ':' cannot be in it, the overlay driver separates layers by it", cfg.imageRoot())
	}
	if cfg.BlobDir == "" {
		cfg.BlobDir = filepath.Join(cfg.imageRoot(), "troupe-blobs")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	forwardLibraryLog(cfg.Log)
	s := &Store{
		cfg: cfg, log: cfg.Log, resolveLimit: resolveLimit,
		facts: map[string]facts{}, unlisted: map[string]string{}, files: map[string]inodes{}, staged: map[string]*stagedLayer{}, layers: newHolds(),
	}
	s.cores = gate.Fair(int64(max(2, runtime.NumCPU())))
	r, err := rulesOf(cfg)
	if err != nil {
		return nil, err
	}
	s.rules.Store(r)
	store, err := storage.GetStore(storage.StoreOptions{
		GraphRoot: cfg.GraphRoot, RunRoot: cfg.RunRoot, ImageStore: cfg.ImageStore,
		GraphDriverName: "overlay", GraphDriverOptions: driverOptions(cfg.StorageOptions),
		// Of zstd:chunked layers only what is missing is fetched; a layer that
		// cannot be verified that way is fetched whole.
		PullOptions: map[string]string{"enable_partial_images": "true"},
	})
	if err != nil {
		return nil, fmt.Errorf("image store %s (runroot %s): %w", cfg.GraphRoot, cfg.RunRoot, err)
	}
	s.store = store
	if err := s.recover(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// driverOptions adds our default to what the configuration says: no mount of
// the driver's own over its directory (we mount layers ourselves and want
// nothing left behind).
func driverOptions(configured []string) []string {
	if slices.ContainsFunc(configured, func(o string) bool { return strings.Contains(o, "skip_mount_home=") }) {
		return configured
	}
	return append(slices.Clone(configured), "overlay.skip_mount_home=true")
}

// recover makes the cache directories and clears them.
func (s *Store) recover() error {
	for _, dir := range []string{s.cfg.BlobDir, s.markerDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("image blob cache: %w", err)
		}
	}
	s.loadCounts()
	if err := s.dropTornImages(); err != nil {
		return err
	}
	if err := s.dropLeftLayers(); err != nil {
		return err
	}
	if err := s.adopt(); err != nil {
		return fmt.Errorf("staged layers: %w", err)
	}
	s.artifacts.dir, s.artifacts.log = filepath.Join(s.cfg.GraphRoot, "troupe-artifacts"), s.log
	halves, err := s.artifacts.load()
	if err != nil {
		return err
	}
	unpacked, err := os.ReadDir(s.loadDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image blob cache: %w", err)
	}
	for _, e := range unpacked {
		halves = append(halves, filepath.Join(s.loadDir(), e.Name()))
	}
	halves = append(halves, s.torn()...)
	s.removeBehind(halves)
	return s.sweepBlobs()
}

// Close gives the store back. Nothing else may be called afterwards.
func (s *Store) Close() error {
	if s.store == nil {
		return nil
	}
	s.behind.Wait()
	defer s.store.Free()
	if _, err := s.store.Shutdown(false); err != nil && !errors.Is(err, storage.ErrLayerUsedByContainer) {
		return fmt.Errorf("closing image store %s: %w", s.cfg.GraphRoot, err)
	}
	return nil
}

// LayerDirs are the directories of an image's layers, the uppermost first, as
// overlay wants them. They stay valid while the image is in the store.
func (s *Store) LayerDirs(ctx context.Context, imageID string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("layers of image %s: %w", imageID, err)
	}
	if dirs, err := s.artifactDirs(imageID); dirs != nil || err != nil {
		return dirs, err
	}
	image, err := s.store.Image(imageID)
	if err != nil {
		return nil, storeError(err, "layers of image %s", imageID)
	}
	dirs, err := s.chainDirs(image.TopLayer)
	if err != nil {
		return nil, messages.Errorf(messages.Internal, "image %s is damaged (pull it again): %w", imageID, err)
	}
	return dirs, nil
}

// chainDirs checks that each directory is there: mounting without one would
// give a container half an image.
func (s *Store) chainDirs(top string) ([]string, error) {
	if top == "" {
		return nil, nil
	}
	driver, err := s.store.GraphDriver()
	if err != nil {
		return nil, err
	}
	metadata, err := driver.Metadata(top)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", top, err)
	}
	dirs := []string{metadata["UpperDir"]}
	if lower := metadata["LowerDir"]; lower != "" {
		dirs = append(dirs, strings.Split(lower, ":")...)
	}
	for _, dir := range dirs {
		if err := isDirectory(dir); err != nil {
			return nil, err
		}
	}
	return dirs, nil
}

func isDirectory(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a directory", path)
	}
	return err
}
