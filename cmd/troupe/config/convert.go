package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// converter turns what the TOML library decoded into the option's type.
func converter[T value]() func(any) (any, error) {
	var zero T
	switch any(zero).(type) {
	case string:
		return as[string]("a string, in quotes")
	case bool:
		return as[bool]("true or false, without quotes")
	case int:
		return toInt
	case []string:
		return toStrings
	case time.Duration:
		return toDuration
	default:
		return toMap
	}
}

func as[T any](want string) func(any) (any, error) {
	return func(v any) (any, error) {
		if t, ok := v.(T); ok {
			return t, nil
		}
		return nil, wrongType(v, want)
	}
}

func toInt(v any) (any, error) {
	n, ok := v.(int64)
	if !ok {
		return nil, wrongType(v, "a whole number, without quotes")
	}
	if n > math.MaxInt32 || n < math.MinInt32 {
		return nil, fmt.Errorf("is %d, which is out of range", n)
	}
	return int(n), nil
}

func toStrings(v any) (any, error) {
	const want = `a list of strings, like ["a", "b"]`
	list, ok := v.([]any)
	if !ok {
		return nil, wrongType(v, want)
	}
	strs := make([]string, 0, len(list))
	for _, item := range list {
		s, ok := item.(string)
		if !ok {
			return nil, wrongType(item, want)
		}
		strs = append(strs, s)
	}
	return strs, nil
}

func toDuration(v any) (any, error) {
	s, ok := v.(string)
	if !ok {
		return nil, wrongType(v, `a time in quotes, like "30s"`)
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return nil, fmt.Errorf(`is %q; use a time like "30s", "5m" or "0s"`, s)
	}
	return d, nil
}

func toMap(v any) (any, error) {
	const want = `a table of strings, like { "a" = "b" }`
	table, ok := v.(map[string]any)
	if !ok {
		return nil, wrongType(v, want)
	}
	m := make(map[string]string, len(table))
	for key, item := range table {
		s, ok := item.(string)
		if !ok {
			return nil, wrongType(item, want)
		}
		m[key] = s
	}
	return m, nil
}

func wrongType(v any, want string) error {
	return fmt.Errorf("is %s; use %s", describe(v), want)
}

func describe(v any) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("the string %q", v)
	case int64, float64, bool:
		return fmt.Sprint(v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	default:
		return fmt.Sprintf("a %T", v)
	}
}

// literal is the value as TOML writes it.
func literal(v any) string {
	switch v := v.(type) {
	case string:
		return quote(v)
	case time.Duration:
		return quote(v.String())
	case []string:
		items := make([]string, len(v))
		for i, s := range v {
			items[i] = quote(s)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case map[string]string:
		items := make([]string, 0, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			items = append(items, quote(key)+" = "+quote(v[key]))
		}
		if len(items) == 0 {
			return "{}"
		}
		return "{ " + strings.Join(items, ", ") + " }"
	default:
		return fmt.Sprint(v)
	}
}

// quote writes a TOML basic string (toml.io/en/v1.0.0#string).
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
