package actors

import "github.com/troupe-run/troupe/messages"

// Making finds what a request to make something is about: a pod or container
// that has no id its caller knows yet. Both are empty when there is none.
func (x *Index) Making(req any) (pod, container string) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	switch m := req.(type) {
	case messages.RunPod:
		for id, p := range x.pods {
			if nameOf(p.Config) == nameOf(m.Config) {
				return id, ""
			}
		}
	case messages.CreateContainer:
		name, attempt := m.Config.GetMetadata().GetName(), m.Config.GetMetadata().GetAttempt()
		for id, c := range x.containers {
			if its := c.Config.GetMetadata(); c.Pod == m.Pod && its.GetName() == name && its.GetAttempt() == attempt {
				return m.Pod, id
			}
		}
	}
	return "", ""
}
