package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// output is how a command answers: a table for people, or JSON.
type output struct{ format string }

func (o *output) flag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "table", "table or json")
}

// print writes v as JSON, or the table that fill fills.
func (o *output) print(cmd *cobra.Command, v any, fill func(*table)) error {
	switch o.format {
	case "json":
		text, err := toJSON(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
		return err
	case "table":
		t := &table{w: tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)}
		fill(t)
		return t.flush()
	}
	return usageError{fmt.Errorf("--output %s: unknown format; use table or json", o.format)}
}

func toJSON(v any) (string, error) {
	if m, ok := v.(proto.Message); ok {
		return protojson.MarshalOptions{Multiline: true, Indent: "  ", EmitUnpopulated: true}.Format(m), nil
	}
	text, err := json.MarshalIndent(v, "", "  ")
	return string(text), err
}

// table aligns columns; the first error is kept.
type table struct {
	w   *tabwriter.Writer
	err error
}

func (t *table) row(cells ...any) {
	text := make([]string, len(cells))
	for i, cell := range cells {
		text[i] = orDash(strings.Map(onOneLine, fmt.Sprint(cell)))
	}
	t.line(strings.Join(text, "\t"))
}

func (t *table) line(text string) {
	if t.err == nil {
		_, t.err = fmt.Fprintln(t.w, text)
	}
}

func (t *table) flush() error {
	if t.err != nil {
		return t.err
	}
	return t.w.Flush()
}

// onOneLine keeps control characters of names and errors off the terminal.
func onOneLine(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

func orDash(s string) string {
	if strings.TrimSpace(s) == "" {
		return "-"
	}
	return s
}

// ago is how long ago something was.
func ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return duration(time.Since(t.AsTime()))
}

// duration rounds to what is of interest.
func duration(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// size is a number of bytes for people; less than 0: unknown.
func size(bytes int64) string {
	if bytes < 0 {
		return "?"
	}
	const units = "KMGTP"
	if bytes < 1<<10 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

// short is an id as people write it.
func short(id string) string {
	if len(id) > 13 {
		return id[:13]
	}
	return id
}
