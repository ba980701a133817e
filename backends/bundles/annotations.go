package bundles

// annotation is what the pod says by one of CRI-O's annotations, if its handler
// allows that one (allowed_annotations): whoever may make a pod may annotate it.
// An entry of the option stands for all annotations that begin with it.
func (b *bundle) annotation(name string) (value string, ok bool) {
	if !b.handler().allows(name) {
		return "", false
	}
	value, ok = b.r.PodConfig.GetAnnotations()[name]
	return value, ok
}
