package main

import (
	"strings"
	"testing"
	"time"
)

const at = 100 * time.Second // when the end came

// told is a world with one pod of three containers, all answered long before the end.
func told() (*world, *Found) {
	w := newWorld()
	for _, e := range []Event{
		{Op: "run", ID: "p", Created: 1},
		{Op: "create", Container: "main", ID: "m", Created: 2},
		{Op: "start", Container: "main"},
		{Op: "create", Container: "ends", ID: "e", Created: 3, Code: 7},
		{Op: "start", Container: "ends"},
	} {
		e.Pod, e.After = "pod0", 10*time.Second
		for _, e.Kind = range []string{"do", "did"} {
			w.note(e)
		}
	}
	w.note(Event{Kind: "exited", Pod: "pod0", Container: "ends", Code: 7, After: 11 * time.Second})
	return w, &Found{
		Pods: []Pod{{ID: "p", Name: "pod0", Created: 1}},
		Containers: []Container{
			{ID: "m", PodID: "p", Name: "main", State: "CONTAINER_EXITED", Reason: "Unknown", Code: -1, Created: 2, Started: 4, Finished: 9},
			{ID: "e", PodID: "p", Name: "ends", State: "CONTAINER_EXITED", Reason: "Error", Code: 7, Created: 3, Started: 4, Finished: 5},
		},
	}
}

func TestTheTrueLastStateIsNeitherLostNorInvented(t *testing.T) {
	w, f := told()
	v := w.judge(PowerCut, at, f)
	if len(v.lost)+len(v.invented) > 0 || v.codes != 1 || v.unknown != 1 {
		t.Errorf("%+v", v)
	}
}

func TestTheJudgeSeesWhatIsLostAndWhatIsInvented(t *testing.T) {
	for name, c := range map[string]struct {
		change         func(*world, *Found)
		lost, invented string
	}{
		"a pod":                 {func(_ *world, f *Found) { f.Pods, f.Containers = nil, nil }, "pod pod0/0", ""},
		"a container":           {func(_ *world, f *Found) { f.Containers = f.Containers[:1] }, "container pod0/0/ends", ""},
		"an exit code":          {func(_ *world, f *Found) { f.Containers[1].Reason, f.Containers[1].Code = "Unknown", -1 }, "had ended with 7", ""},
		"an image":              {func(w *world, _ *Found) { w.images["i"] = call{1, 2} }, "the pull of i", ""},
		"another code":          {func(_ *world, f *Found) { f.Containers[1].Code = 8 }, "", "it can only have ended with [7]"},
		"a kill":                {func(_ *world, f *Found) { f.Containers[0].Reason, f.Containers[0].Code = "Error", 137 }, "", "it can only have ended with []"},
		"success":               {func(_ *world, f *Found) { f.Containers[0].Reason, f.Containers[0].Code = "Completed", 0 }, "", "it can only have ended with []"},
		"a running one":         {func(_ *world, f *Found) { f.Containers[0].State = "CONTAINER_RUNNING" }, "", "is shown as CONTAINER_RUNNING"},
		"a ready pod":           {func(_ *world, f *Found) { f.Pods[0].Ready = true }, "", "is shown ready"},
		"another id":            {func(_ *world, f *Found) { f.Pods[0].ID, f.Containers = "q", nil }, "container", "had the id p"},
		"another time":          {func(_ *world, f *Found) { f.Containers[0].Created = 5 }, "", "was created at 2"},
		"a pod nobody asked":    {func(_ *world, f *Found) { f.Pods = append(f.Pods, Pod{ID: "x", Name: "pod9"}) }, "", "never asked for"},
		"a removed pod is back": {func(w *world, _ *Found) { w.podsBy["pod0/0"].remove = call{20 * time.Second, 21 * time.Second} }, "", "had been removed"},
	} {
		t.Run(name, func(t *testing.T) {
			w, f := told()
			c.change(w, f)
			v := w.judge(PowerCut, at, f)
			if got := strings.Join(v.lost, "\n"); !strings.Contains(got, c.lost) || (c.lost == "") != (got == "") {
				t.Errorf("lost: %q, want %q", got, c.lost)
			}
			if got := strings.Join(v.invented, "\n"); !strings.Contains(got, c.invented) || (c.invented == "") != (got == "") {
				t.Errorf("invented: %q, want %q", got, c.invented)
			}
		})
	}
}

func TestTheLastMomentMayBeLost(t *testing.T) {
	w, _ := told()
	if v := w.judge(PowerCut, 12*time.Second, &Found{}); len(v.lost) > 0 {
		t.Errorf("at a power cut: %v", v.lost)
	}
	if v := w.judge(Reboot, 12*time.Second, &Found{}); len(v.lost) == 0 {
		t.Error("a reboot in good order may not lose anything, whenever it was answered")
	}
}
