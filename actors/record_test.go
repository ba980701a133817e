package actors_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/troupe-run/troupe/messages"
)

// Else a daemon that is killed right after the answer comes back and shows the
// container as created, until the monitor was asked.
func TestAStartIsAnsweredWhenTheRecordSaysThatItRuns(t *testing.T) {
	s := newScene(t)
	s.pod = s.must(s.run()).(string)
	s.created()
	s.gate.hold("Journal.Save")
	answered := s.begin(s.start())
	s.until("it runs", func() bool { return s.containerState() == messages.ContainerRunning })
	select {
	case err := <-answered:
		t.Fatalf("it was answered before its record was written: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	s.gate.open()
	s.answered("the start", answered)
	records, _, err := s.node.Backends().Journal.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if r.Container == s.cont && !bytes.Contains(r.Data, []byte(`"state":"running"`)) {
			t.Errorf("the record: %s", r.Data)
		}
	}
}
