package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/troupe-run/troupe/cmd/troupe/config"
	"github.com/troupe-run/troupe/messages"
)

// serveMetrics serves Prometheus metrics until stop is called.
func serveMetrics(ctx context.Context, c config.Metrics, view func() messages.View) (stop func(context.Context), err error) {
	listeners, err := metricsListeners(ctx, c)
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), buildInfo(), nodeCollector{view},
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	for _, l := range listeners {
		go func() { _ = server.Serve(l) }() // it ends by stop only
	}
	return func(ctx context.Context) {
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	}, nil
}

func metricsListeners(ctx context.Context, c config.Metrics) ([]net.Listener, error) {
	address := net.JoinHostPort(c.Host, strconv.Itoa(c.Port))
	tcp, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w; set metrics_host and metrics_port in [crio.metrics] to a free address", err)
	}
	if c.Socket == "" {
		return []net.Listener{tcp}, nil
	}
	unix, err := listen(ctx, config.SocketPath(c.Socket))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("metrics: metrics_socket: %w", err), tcp.Close())
	}
	return []net.Listener{tcp, unix}, nil
}

func buildInfo() prometheus.Collector {
	b := buildOf()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "troupe_build_info", Help: "Which program runs; always 1.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "go_version": b.GoVersion},
	})
	info.Set(1)
	return info
}

// nodeCollector counts what is published when it is asked; nothing is kept
// between, so it costs nothing while nobody scrapes.
type nodeCollector struct{ view func() messages.View }

var (
	podsDesc       = prometheus.NewDesc("troupe_pods", "Pods by state.", []string{"state"}, nil)
	containersDesc = prometheus.NewDesc("troupe_containers", "Containers by state.", []string{"state"}, nil)
	imagesDesc     = prometheus.NewDesc("troupe_images", "Images in the store.", nil, nil)
	pullsDesc      = prometheus.NewDesc("troupe_image_pulls_in_progress", "Image pulls under way.", nil, nil)
	readyDesc      = prometheus.NewDesc("troupe_ready", "1 when the condition holds.", []string{"condition"}, nil)
)

func (nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{podsDesc, containersDesc, imagesDesc, pullsDesc, readyDesc} {
		ch <- d
	}
}

func (n nodeCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	view := n.view()
	pods, containers := map[messages.PodState]int{}, map[messages.ContainerState]int{}
	for _, p := range view.Pods() {
		pods[p.State]++
	}
	for _, c := range view.Containers() {
		containers[c.State]++
	}
	for state, count := range pods {
		gauge(podsDesc, count, string(state))
	}
	for state, count := range containers {
		gauge(containersDesc, count, string(state))
	}
	gauge(imagesDesc, len(view.Images()))
	gauge(pullsDesc, len(view.Pulls()))
	for name, c := range map[string]messages.Condition{"runtime": view.Runtime(), "network": view.Network()} {
		ready := 0
		if c.OK {
			ready = 1
		}
		gauge(readyDesc, ready, name)
	}
}
