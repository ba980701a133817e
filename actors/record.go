package actors

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/troupe-run/troupe/backends"
	"github.com/troupe-run/troupe/messages"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// recordVersion goes up when an older Troupe could not read a record rightly.
const recordVersion = 1

// podRecord is what the journal keeps of a pod: enough to go on or go back
// after the daemon's death, and to show the pod after a reboot.
type podRecord struct {
	Version int               `json:"version"`
	Config  []byte            `json:"config"` // runtime.PodSandboxConfig, protobuf
	State   messages.PodState `json:"state"`
	Reason  string            `json:"reason,omitempty"`
	Done    []string          `json:"done"`
	Plan    podPlan           `json:"plan"`
}

// containerRecord is the same of a container. The state of its process is not
// taken from here while the monitor can be asked.
type containerRecord struct {
	Version int                     `json:"version"`
	Config  []byte                  `json:"config"` // runtime.ContainerConfig, protobuf
	State   messages.ContainerState `json:"state"`
	Done    []string                `json:"done"`
	Plan    containerPlan           `json:"plan"`
	Process messages.ProcessState   `json:"process"`
	Reason  string                  `json:"reason,omitempty"`
	Message string                  `json:"message,omitempty"`
	// Updating: its limits may be others than those recorded.
	Updating bool `json:"updating,omitempty"`
}

func decodePod(r backends.Record) (podRecord, error) {
	var rec podRecord
	if err := decode(r.Data, &rec, &rec.Version); err != nil {
		return rec, fmt.Errorf("record of pod %s: %w", r.Pod, err)
	}
	rec.Plan.Config = &runtime.PodSandboxConfig{}
	if err := proto.Unmarshal(rec.Config, rec.Plan.Config); err != nil {
		return rec, fmt.Errorf("record of pod %s: config: %w", r.Pod, err)
	}
	return rec, nil
}

func decodeContainer(r backends.Record) (containerRecord, error) {
	var rec containerRecord
	if err := decode(r.Data, &rec, &rec.Version); err != nil {
		return rec, fmt.Errorf("record of container %s: %w", r.Container, err)
	}
	rec.Plan.Config = &runtime.ContainerConfig{}
	if err := proto.Unmarshal(rec.Config, rec.Plan.Config); err != nil {
		return rec, fmt.Errorf("record of container %s: config: %w", r.Container, err)
	}
	return rec, nil
}

func decode(data []byte, into any, version *int) error {
	if err := json.Unmarshal(data, into); err != nil {
		return err
	}
	if *version != recordVersion {
		return fmt.Errorf("version %d is not one this Troupe reads (%d)", *version, recordVersion)
	}
	return nil
}

// encode cannot fail for our own types; if it does, that is a bug to see.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// timeline is the bounded past of an actor: newest last.
type timeline []messages.Edge

const timelineLength = 64

// sinceOf is how long a state lasted; the first state of all lasted nothing.
func sinceOf(now, since time.Time) time.Duration {
	if since.IsZero() {
		return 0
	}
	return now.Sub(since).Round(time.Microsecond)
}

func (t timeline) with(e messages.Edge) timeline {
	if len(t) >= timelineLength {
		t = t[len(t)-timelineLength+1:]
	}
	return append(t[:len(t):len(t)], e)
}

func (t timeline) took(at time.Time, step string, took time.Duration, err error) timeline {
	e := messages.Edge{At: at, Step: step, Took: took}
	if err != nil {
		e.Err = err.Error()
	}
	return t.with(e)
}

// records are those of a pod and its containers, decoded once. Who has them may
// not change them: others have them too.
type records struct {
	pod        podRecord
	err        error // why the pod's own cannot be used
	containers []recordedContainer
}

type recordedContainer struct {
	id  string
	rec containerRecord
	err error // why it cannot be used
}

// readRecords decodes the records of one pod.
func readRecords(all []backends.Record) *records {
	r := &records{err: fmt.Errorf("%d container records without their pod's", len(all))}
	for _, one := range all {
		if one.Container == "" {
			r.pod, r.err = decodePod(one)
			continue
		}
		rec, err := decodeContainer(one)
		r.containers = append(r.containers, recordedContainer{one.Container, rec, err})
	}
	return r
}

// RecordedImages are the ids of the images that recorded containers were made
// from or have as volumes, each once.
func RecordedImages(records []backends.Record) (ids []string) {
	for _, r := range records {
		if r.Container == "" {
			continue
		}
		rec, err := decodeContainer(r)
		if err != nil {
			continue // nobody can say what it was made from
		}
		ids = append(ids, rec.Plan.Image.ID)
		for _, v := range rec.Plan.Volumes {
			ids = append(ids, v.ImageID)
		}
	}
	slices.Sort(ids)
	return slices.DeleteFunc(slices.Compact(ids), func(id string) bool { return id == "" })
}
