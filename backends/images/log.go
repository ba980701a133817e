package images

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/sirupsen/logrus"
)

// libraryLog is where the image and storage libraries' lines go. They log by a
// global of logrus, so the store opened last has them.
var libraryLog atomic.Pointer[slog.Logger]

// forwardLibraryLog makes those lines ours: one stream, one format. What the
// libraries call info (reconnections, choices) is detail to an operator.
func forwardLibraryLog(log *slog.Logger) {
	if libraryLog.Swap(log.With("library", "containers")) == nil {
		logrus.SetOutput(io.Discard)
		logrus.AddHook(forward{})
	}
}

type forward struct{}

func (forward) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel, logrus.WarnLevel, logrus.InfoLevel}
}

func (forward) Fire(e *logrus.Entry) error {
	level := slog.LevelError
	switch e.Level {
	case logrus.WarnLevel:
		level = slog.LevelWarn
	case logrus.InfoLevel:
		level = slog.LevelDebug
	}
	ctx := e.Context
	if ctx == nil {
		ctx = context.Background()
	}
	libraryLog.Load().Log(ctx, level, e.Message)
	return nil
}
