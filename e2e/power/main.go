// Command power proves that a power cut at any moment of a pull leaves either
// no image or a whole one: it boots small machines on a disk with a volatile
// cache, has Troupe in them pull and remove images, cuts the power, boots
// again on what the disk then holds, and has the store judged. It prints a line
// for each cut; the last line has the sums. It ends with 1 if anything was
// corrupt, lost or could not be pulled again. Run it by `make vm-test PARTS=power`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/troupe-run/troupe/e2e/harness"
	"go.podman.io/storage/pkg/reexec"
)

type options struct {
	cuts, machines     int
	seed               uint64
	cache, kernel, out string
	limit              time.Duration
	verbose            bool
}

func main() {
	if reexec.Init() { // the storage library runs its program again
		return
	}
	if os.Args[len(os.Args)-1] == "guest" {
		beMachine()
	}
	o := &options{}
	flag.IntVar(&o.cuts, "cuts", 50, "how often power is cut")
	flag.IntVar(&o.machines, "machines", 2, "how many machines run at a time, each with a disk of its own")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().Unix()), "cut n is drawn from seed+n")
	flag.StringVar(&o.cache, "cache", "", "folder of the guest made by shared/vm/build")
	flag.StringVar(&o.kernel, "kernel", "stable", "the guest's kernel: stable or new")
	flag.StringVar(&o.out, "out", ".", "folder for the disks of failures")
	flag.DurationVar(&o.limit, "limit", 4*time.Minute, "how long a machine may take from boot to cut")
	flag.BoolVar(&o.verbose, "v", false, "print what machines tell")
	flag.Parse()
	harness.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	t := &tally{phases: map[string]int{}}
	err := cutPower(ctx, o, t)
	stop()
	if err != nil {
		fmt.Printf("FAIL %v\n", err)
	}
	for _, p := range slices.Sorted(maps.Keys(t.phases)) {
		fmt.Printf("cut while %s: %d\n", p, t.phases[p])
	}
	fmt.Printf("power: %d cuts, %d corrupt, %d answered pulls lost, %d failed (%d left over at a boot, %d removals undone, troupe check asked %d times)\n",
		t.cuts, t.corrupt, t.lost, t.failed, t.left, t.back, t.checked)
	if err != nil || t.corrupt+t.lost+t.failed > 0 || t.cuts < o.cuts {
		os.Exit(1)
	}
}

func cutPower(ctx context.Context, o *options, t *tally) (err error) {
	lab, err := harness.NewLab()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	registry, err := lab.StartRegistry(ctx, harness.RegistryOptions{})
	if err != nil {
		return err
	}
	c, err := publish(ctx, registry)
	if err != nil {
		return err
	}
	w, err := newWorkshop(lab, o.cache, o.kernel)
	if err != nil {
		return err
	}
	fmt.Printf("seed %d; kernel %s, %s\n", o.seed, o.kernel, w.Accel)
	var mu sync.Mutex
	given := 0
	ordinal := func() int {
		mu.Lock()
		defer mu.Unlock()
		if given == o.cuts {
			return 0
		}
		given++
		return given
	}
	var all sync.WaitGroup
	errs := make([]error, o.machines)
	for i := range o.machines {
		all.Go(func() {
			s := &series{workshop: w, catalogue: c, options: o, name: fmt.Sprintf("machine%d", i+1), ordinal: ordinal, tally: t}
			errs[i] = s.run(ctx)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
