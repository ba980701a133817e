//go:build linux && cgo

// The keeper: the parent of the monitor. It holds a second descriptor of
// everything a container would miss if the monitor died (pipes, terminal, log,
// pidfd), reaps what then has no parent, and starts the monitor again. It is
// this same binary, and never starts the Go runtime: what is not there cannot
// fail, and costs no memory.
//
//	keeper ── monitor ── containers
//
// A keeper that was started by a living monitor, whose own keeper had died, is
// the monitor's child instead (adopted), until that monitor dies.

#define _GNU_SOURCE
#include "keeper_table.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MONITOR_ENV "TROUPE_KEEPER_FD"  // in the monitor: its socket to the keeper
#define ADOPTED_ENV "TROUPE_KEEPER_FOR" // in a keeper that the monitor starts: its end

static struct {
	char **argv, **env;
	sigset_t mask;            // as it was given to us
	struct rlimit files;      // so was this
	char oom[16];             // and this
	char path[4096];          // of the program
	int program, next;        // O_PATH: of the monitor; of one that is to be tried, or -1
	int signals, sock;        // sock -1: none
	pid_t monitor;            // 0: none now
	int pidfd;                // of an adopted monitor, else -1
	int served, upgrading, ending;
	int64_t born, again;      // when the monitor was started, and is to be
	int64_t wait;             // how long to wait before that, if it dies young
} k;

static int64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// complain and note write what the monitor's log has: slog's form.
static void complain(const char *what) {
	dprintf(2, "time=@%lld level=ERROR msg=\"troupe-keeper: %s\" err=\"%s\"\n", (long long)time(NULL), what, strerror(errno));
}

static void note(const char *what, int code) {
	dprintf(2, "time=@%lld level=WARN msg=\"troupe-keeper: %s\" exit=%d\n", (long long)time(NULL), what, code);
}

static void set_oom(const char *score) {
	int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t n = write(fd, score, strlen(score)); // refused without CAP_SYS_RESOURCE, which the monitor says
	(void)n;
	close(fd);
}

static void get_oom(void) {
	int fd = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, k.oom, sizeof k.oom - 1);
	if (n < 0)
		n = 0;
	k.oom[n] = 0;
	if (fd >= 0)
		close(fd);
}

// monitor_env is ours with the socket's number.
static char **monitor_env(int sock) {
	static char word[64];
	int n = 0;
	while (k.env[n])
		n++;
	char **env = calloc(n + 2, sizeof *env);
	if (!env)
		return NULL;
	int out = 0;
	for (int i = 0; i < n; i++)
		if (strncmp(k.env[i], ADOPTED_ENV "=", sizeof ADOPTED_ENV) != 0)
			env[out++] = k.env[i];
	snprintf(word, sizeof word, MONITOR_ENV "=%d", sock);
	env[out] = word;
	return env;
}

// become_monitor runs in the child. Everything the keeper changed for itself is
// as it was, since containers inherit it.
static void become_monitor(int sock) {
	fcntl(sock, F_SETFD, 0);
	setrlimit(RLIMIT_NOFILE, &k.files);
	if (k.oom[0])
		set_oom(k.oom);
	sigprocmask(SIG_SETMASK, &k.mask, NULL);
	char **env = monitor_env(sock);
	if (env)
		syscall(SYS_execveat, k.next >= 0 ? k.next : k.program, "", k.argv, env, AT_EMPTY_PATH);
	complain("the program cannot be run");
	_exit(127);
}

// start starts the monitor, and says whether that was possible.
static int start(void) {
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		complain("socketpair");
		return 0;
	}
	pid_t pid = fork();
	if (pid == 0)
		become_monitor(pair[1]);
	close(pair[1]);
	if (pid < 0) {
		complain("fork");
		close(pair[0]);
		return 0;
	}
	k.sock = pair[0];
	k.monitor = pid;
	k.served = 0;
	k.born = now();
	return 1;
}

static void serving(void) {
	k.served = 1;
	if (k.next >= 0) { // the new program has shown that it works
		close(k.program);
		k.program = k.next;
		k.next = -1;
	}
}

static int upgrade(void) {
	int fd = open(k.path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return errno;
	if (faccessat(AT_FDCWD, k.path, X_OK, 0) < 0) {
		int err = errno;
		close(fd);
		return err;
	}
	if (k.next >= 0)
		close(k.next);
	k.next = fd;
	k.upgrading = 1;
	return 0;
}

static void ending(void) { k.ending = 1; }

static void reap(void);
static struct keeper_hooks hooks = {reap, serving, upgrade, ending};

// receive deals with all that the monitor has sent by now.
static void receive(void) {
	while (k.sock >= 0) {
		int got = table_receive(k.sock, &hooks);
		if (got == 0)
			return;
		if (got < 0) {
			close(k.sock);
			k.sock = -1;
		}
	}
}

// died decides what comes after the monitor's end. status is waitpid's; an
// adopted one's is not known, and counts as a death.
static void died(int status) {
	receive(); // what it sent last, as far as that was not read
	if (k.sock >= 0)
		close(k.sock);
	k.sock = -1;
	k.monitor = 0;
	int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	int held = table_used() > 0;
	if (k.ending || (!k.served && !held && k.next < 0))
		_exit(k.ending ? 0 : code);
	int64_t t = now();
	if (k.upgrading) {
		k.upgrading = 0;
		k.again = t;
		note("the monitor is started anew from the program's path", code);
		return;
	}
	if (k.next >= 0 && !k.served) { // the new program did not get as far as serving
		note("the new program ended before it served: the one before goes on", code);
		close(k.next);
		k.next = -1;
		k.again = t;
		return;
	}
	if (t - k.born > 1000)
		k.wait = 0;
	note("the monitor died; it is started again and gets what was kept", code);
	k.again = t + k.wait;
	k.wait = k.wait == 0 ? 50 : k.wait < 500 ? 2 * k.wait : 1000;
}

// reap takes in the ends of all children. Whose end it is must be known before
// it is reaped: a process comes to us when the monitor has died, so what that
// sent is all there by then, and is read first.
static void reap(void) {
	for (;;) {
		siginfo_t info;
		info.si_pid = 0;
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
			return;
		pid_t pid = info.si_pid;
		static int nested; // STATUS asks for reaping
		if (!nested && pid != k.monitor && !table_knows(pid)) {
			nested = 1;
			receive();
			nested = 0;
		}
		int status;
		if (waitpid(pid, &status, WNOHANG) != pid)
			continue;
		if (pid == k.monitor)
			died(status);
		else
			table_reaped(pid, status);
	}
}

static void take_signals(void) {
	struct signalfd_siginfo s;
	while (read(k.signals, &s, sizeof s) == sizeof s)
		if (s.ssi_signo != SIGCHLD && k.monitor > 0)
			kill(k.monitor, s.ssi_signo);
	reap();
}

static void run(void) {
	for (;;) {
		int64_t wait = -1;
		if (k.monitor == 0) {
			wait = k.again - now();
			if (wait <= 0) {
				if (!start())
					k.again = now() + 1000;
				continue;
			}
		}
		struct pollfd p[] = {{k.signals, POLLIN, 0}, {k.sock, POLLIN, 0}, {k.pidfd, POLLIN, 0}};
		if (poll(p, 3, (int)wait) < 0 && errno != EINTR) {
			complain("poll");
			sleep(1);
		}
		receive();
		if (p[2].revents) {
			close(k.pidfd);
			k.pidfd = -1;
			died(SIGKILL);
		}
		take_signals();
	}
}

// keep is the main function of the keeper. adopted is the socket of a living
// monitor, or -1.
static void keep(char **argv, char **env, int adopted) {
	k.argv = argv;
	k.env = env;
	k.sock = k.pidfd = k.next = -1;
	prctl(PR_SET_NAME, "troupe-keeper");
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) {
		complain("become the child subreaper");
		_exit(1);
	}
	setsid(); // refused to who has done it already
	get_oom();
	set_oom("-999");
	getrlimit(RLIMIT_NOFILE, &k.files);
	struct rlimit most = {k.files.rlim_max, k.files.rlim_max};
	setrlimit(RLIMIT_NOFILE, &most);
	ssize_t n = readlink("/proc/self/exe", k.path, sizeof k.path - 1);
	static const char gone[] = " (deleted)"; // replaced meanwhile: the path is right
	if (n > (ssize_t)sizeof gone && strcmp(k.path + n - (sizeof gone - 1), gone) == 0)
		k.path[n - (sizeof gone - 1)] = 0;
	k.program = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	sigset_t ours;
	sigemptyset(&ours);
	int all[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
		sigaddset(&ours, all[i]);
	sigset_t blocked = ours;
	sigaddset(&blocked, SIGPIPE); // of a log that nobody reads
	sigprocmask(SIG_BLOCK, &blocked, &k.mask);
	k.signals = signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
	if (n < 0 || k.program < 0 || k.signals < 0) {
		complain("begin");
		_exit(1);
	}
	if (adopted >= 0) {
		unsetenv(ADOPTED_ENV);
		k.monitor = getppid();
		k.pidfd = syscall(SYS_pidfd_open, k.monitor, 0);
		k.sock = adopted;
		k.served = 1;
		k.born = now();
		fcntl(adopted, F_SETFD, FD_CLOEXEC);
		if (k.pidfd < 0 || getppid() != k.monitor)
			_exit(1);
	} else if (!start())
		_exit(1);
	run();
}

// begin runs before the Go runtime, in every process of this binary: only one
// that was started by hand, by the daemon or by systemd has a flag first.
static void __attribute__((constructor)) begin(int argc, char **argv, char **env) {
	if (argc < 2 || argv[1][0] != '-' || getenv("_LIBCONTAINER_INITPIPE"))
		return;
	if (getenv(MONITOR_ENV)) {
		prctl(PR_SET_NAME, "troupe-monitor");
		return;
	}
	const char *adopted = getenv(ADOPTED_ENV);
	keep(argv, env, adopted ? atoi(adopted) : -1);
}
