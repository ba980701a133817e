package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/troupe-run/troupe/backends"
)

func (b *Backend) rangesPath() string { return filepath.Join(b.config.CacheDir, "ranges") }

// SetRanges writes the ranges down. The kubelet tells them once, and again only
// when it starts or they change: they must outlive this daemon.
func (b *Backend) SetRanges(ctx context.Context, ranges []netip.Prefix) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	content, err := json.Marshal(ranges)
	if err != nil {
		return fmt.Errorf("keep the pods' address ranges: %w", err)
	}
	if old, err := backends.ReadFile(b.rangesPath()); err == nil && string(old) == string(content) {
		return nil
	}
	path := b.rangesPath()
	if err := os.MkdirAll(b.config.CacheDir, 0o700); err != nil {
		return diskError("keep the pods' address ranges", err)
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		_ = os.RemoveAll(path) // damage: no file could take its place
	}
	// On disk before it has its name: after a power cut an empty file would keep
	// every pod from its network, until the kubelet tells the ranges again.
	if err := errors.Join(writeSynced(path+".new", content), os.Rename(path+".new", path)); err != nil {
		_ = os.Remove(path + ".new")
		return diskError("keep the pods' address ranges", err)
	}
	b.config.Log.Info("the kubelet told the pods' address ranges", "ranges", ranges)
	return nil
}

// ranges is the value of the capability ipRanges: one set per range, and a pod
// gets an address of each (CONVENTIONS.md of CNI). Nil when none were told.
func (b *Backend) ranges() ([][]map[string]string, error) {
	content, err := backends.ReadFile(b.rangesPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var told []netip.Prefix
	if err == nil {
		err = json.Unmarshal(content, &told)
	}
	if err != nil {
		return nil, fmt.Errorf("read the pods' address ranges: %w; restart the kubelet, which tells them anew, or remove %s to go without", err, b.rangesPath())
	}
	var sets [][]map[string]string
	for _, r := range told {
		sets = append(sets, []map[string]string{{"subnet": r.String()}})
	}
	return sets, nil
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}
