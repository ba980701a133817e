package conformance

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/troupe-run/troupe/backends"
)

// Journal checks the promises of backends.Journal.
func Journal(t *testing.T, new func(t *testing.T) backends.Journal) {
	t.Run("WhatIsSavedIsLoadedPodsBeforeTheirContainers", func(t *testing.T) {
		j, pod := new(t), ID(t)
		container := backends.Key{Pod: pod, Container: ID(t)}
		must(t, j.Save(context30s(t), container, []byte("a container")))
		must(t, j.Save(context30s(t), backends.Key{Pod: pod}, []byte("a pod\nof two lines")))
		wantRecords(t, j, backends.Record{Key: backends.Key{Pod: pod}, Data: []byte("a pod\nof two lines")},
			backends.Record{Key: container, Data: []byte("a container")})
		wantHeld(t, j, pod)
	})
	t.Run("SavingAgainReplaces", func(t *testing.T) {
		j, k := new(t), backends.Key{Pod: ID(t)}
		for _, data := range []string{"first, and longer", "second", ""} {
			must(t, j.Save(context30s(t), k, []byte(data)))
			wantRecords(t, j, backends.Record{Key: k, Data: []byte(data)})
		}
	})
	t.Run("RemoveWithoutSaveAndTwiceIsASuccess", func(t *testing.T) {
		j, pod := new(t), ID(t)
		for _, k := range []backends.Key{{Pod: pod}, {Pod: pod, Container: ID(t)}} {
			must(t, j.Remove(context30s(t), k))
			must(t, j.Save(context30s(t), k, []byte("x")))
			must(t, j.Remove(context30s(t), k))
			must(t, j.Remove(context30s(t), k))
		}
		wantRecords(t, j)
		wantNothingHeld(t, j, pod)
	})
	t.Run("RemovingAContainerKeepsItsPodAndItsSibling", func(t *testing.T) {
		j, pod := new(t), ID(t)
		one, two := backends.Key{Pod: pod, Container: ID(t)}, backends.Key{Pod: pod, Container: ID(t)}
		for _, k := range []backends.Key{{Pod: pod}, one, two} {
			must(t, j.Save(context30s(t), k, []byte("x")))
		}
		must(t, j.Remove(context30s(t), one))
		wantRecords(t, j, backends.Record{Key: backends.Key{Pod: pod}, Data: []byte("x")}, backends.Record{Key: two, Data: []byte("x")})
	})
	t.Run("APodIsLoadedAloneWithItsContainers", func(t *testing.T) {
		j, pod, other := new(t), ID(t), ID(t)
		container := backends.Key{Pod: pod, Container: ID(t)}
		for _, k := range []backends.Key{{Pod: other}, {Pod: other, Container: ID(t)}, container, {Pod: pod}} {
			must(t, j.Save(context30s(t), k, []byte("x")))
		}
		got, damaged, err := j.LoadPod(context30s(t), pod)
		must(t, err)
		want := []backends.Record{{Key: backends.Key{Pod: pod}, Data: []byte("x")}, {Key: container, Data: []byte("x")}}
		if !reflect.DeepEqual(got, want) || len(damaged) > 0 {
			t.Errorf("loaded %v, damaged %v", got, damaged)
		}
		if got, damaged, err := j.LoadPod(context30s(t), ID(t)); len(got)+len(damaged) > 0 || err != nil {
			t.Errorf("of a pod that is not there: %v, %v, %v", got, damaged, err)
		}
		if _, _, err := j.LoadPod(context30s(t), "../"+pod); err == nil {
			t.Error("a path was taken for a pod")
		}
	})
	t.Run("LeftoversAreHeldAndCanBeDropped", func(t *testing.T) {
		j, pod, other := new(t), ID(t), ID(t)
		for _, k := range []backends.Key{{Pod: pod}, {Pod: pod, Container: ID(t)}, {Pod: other}} {
			must(t, j.Save(context30s(t), k, []byte("x")))
		}
		dropAll(t, j, pod)
		wantRecords(t, j, backends.Record{Key: backends.Key{Pod: other}, Data: []byte("x")})
	})
}

// wantRecords compares what is loaded with what is wanted; the order of pods,
// and of the containers of one, is not promised.
func wantRecords(t *testing.T, j backends.Journal, want ...backends.Record) {
	t.Helper()
	got, damaged, err := j.Load(context30s(t))
	must(t, err)
	if len(damaged) > 0 {
		t.Errorf("damaged: %v", damaged)
	}
	if len(got) != len(want) {
		t.Fatalf("%d records loaded, want %d", len(got), len(want))
	}
	pods := map[string]bool{}
	for _, r := range got {
		if r.Container == "" {
			pods[r.Pod] = true
			continue
		}
		for _, w := range want {
			if w.Pod == r.Pod && w.Container == "" && !pods[r.Pod] {
				t.Errorf("container %.12s came before its pod", r.Container)
			}
		}
	}
	for _, w := range want {
		found := false
		for _, r := range got {
			found = found || (r.Key == w.Key && bytes.Equal(r.Data, w.Data))
		}
		if !found {
			t.Errorf("no record %+v with %q", w.Key, w.Data)
		}
	}
}
