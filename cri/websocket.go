package cri

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// Version 5 of the remote command protocol is what WebSocket clients of today
// speak (client-go, crictl): version 4 with a message that ends a channel, so
// that stdin can end. cri-streaming's server has versions up to 4.
const protocolV5 = "v5.channel.k8s.io"

// The channels, by number (k8s.io/cri-streaming pkg/streaming/remotecommand).
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelError
	channelResize
)

func channel(wanted bool, kind wsstream.ChannelType) wsstream.ChannelType {
	if wanted {
		return kind
	}
	return wsstream.IgnoreChannel
}

// serveV5 runs an exec (with a command) or an attach.
func (r *running) serveV5(w http.ResponseWriter, container string, exec bool) {
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{protocolV5: {Binary: true, Channels: []wsstream.ChannelType{
		channelStdin:  channel(r.options.Stdin, wsstream.ReadChannel),
		channelStdout: channel(r.options.Stdout, wsstream.WriteChannel),
		channelStderr: channel(r.options.Stderr, wsstream.WriteChannel),
		channelError:  wsstream.WriteChannel,
		channelResize: wsstream.ReadChannel,
	}}})
	conn.SetIdleTimeout(r.config.IdleTimeout)
	_, channels, err := conn.Open(w, r.request)
	if err != nil {
		r.log.Warn("a WebSocket session was not opened", append([]any{"err", err}, r.about...)...)
		return
	}
	defer conn.Close()
	// An empty message tells the client that the session is there.
	_, _ = channels[channelStdout].Write(nil)
	resize := make(chan remotecommand.TerminalSize)
	go r.decodeSizes(channels[channelResize], resize)
	in, out, errs := channels[channelStdin], channels[channelStdout], channels[channelStderr]
	if exec {
		err = r.ExecInContainer(r.ctx(), "", "", container, r.command, in, out, errs, r.options.TTY, resize, 0)
	} else {
		err = r.AttachContainer(r.ctx(), "", "", container, in, out, errs, r.options.TTY, resize)
	}
	data, encodeErr := json.Marshal(statusOf(err, exec))
	if encodeErr == nil {
		_, encodeErr = channels[channelError].Write(data)
	}
	if encodeErr != nil && r.ctx().Err() == nil {
		r.log.Warn("how a session ended could not be told", append([]any{"err", encodeErr}, r.about...)...)
	}
}

func (r *running) decodeSizes(from io.Reader, to chan<- remotecommand.TerminalSize) {
	defer close(to)
	for decoder := json.NewDecoder(from); ; {
		var size remotecommand.TerminalSize
		if decoder.Decode(&size) != nil {
			return
		}
		select {
		case to <- size:
		case <-r.ctx().Done():
			return
		}
	}
}

// ending is metav1.Status, which the error channel carries at the end.
type ending struct {
	Status  string         `json:"status"`
	Message string         `json:"message,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Details *endingDetails `json:"details,omitempty"`
	Code    int32          `json:"code,omitempty"`
}

type endingDetails struct {
	Causes []endingCause `json:"causes"`
}

type endingCause struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// statusOf says how a session ended in the words of cri-streaming's server,
// which clients take apart.
func statusOf(err error, exec bool) ending {
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return ending{Status: "Success"}
	case errors.As(err, &exit) && exit.Exited():
		return ending{
			Status: "Failure", Reason: string(remotecommand.NonZeroExitCodeReason),
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &endingDetails{[]endingCause{{string(remotecommand.ExitCodeCauseType), fmt.Sprint(exit.ExitStatus())}}},
		}
	}
	doing := "attaching to container"
	if exec {
		doing = "executing command in container"
	}
	return ending{Status: "Failure", Reason: "InternalError", Code: http.StatusInternalServerError, Message: fmt.Sprintf("Internal error occurred: error %s: %v", doing, err)}
}
