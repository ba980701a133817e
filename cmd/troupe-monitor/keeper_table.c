//go:build linux && cgo

// The keeper's table: what it holds for the monitor, and the messages that
// change it. See keeper.c.

#include "keeper_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct entry {
	char name[KEEPER_NAME];
	int32_t pid;
	int fds[KEEPER_SLOTS]; // -1: none
	int known, status;
	int64_t at;
};

static struct entry *table;
static int used, room;

static struct entry *find(const char *name) {
	for (int i = 0; i < used; i++)
		if (strcmp(table[i].name, name) == 0)
			return &table[i];
	return NULL;
}

// add gives a new entry, or NULL without memory.
static struct entry *add(const char *name) {
	if (used == room) {
		int more = room ? 2 * room : 64;
		struct entry *bigger = realloc(table, more * sizeof *table);
		if (!bigger)
			return NULL;
		table = bigger;
		room = more;
	}
	struct entry *e = &table[used++];
	memset(e, 0, sizeof *e);
	memcpy(e->name, name, KEEPER_NAME);
	for (int i = 0; i < KEEPER_SLOTS; i++)
		e->fds[i] = -1;
	return e;
}

static int empty(const struct entry *e) {
	for (int i = 0; i < KEEPER_SLOTS; i++)
		if (e->fds[i] >= 0)
			return 0;
	return 1;
}

// set is KEEPER_SET; it owns the descriptors. An entry without any is dropped.
static void set(const struct keeper_message *m, const int *fds, int n) {
	struct entry *e = find(m->name);
	if (!e && n > 0)
		e = add(m->name);
	if (!e) {
		for (int i = 0; i < n; i++)
			close(fds[i]);
		return;
	}
	if (m->pid >= 0 && m->pid != e->pid) {
		e->pid = m->pid;
		e->known = 0;
	}
	int next = 0;
	for (int i = 0; i < KEEPER_SLOTS; i++) {
		if (!(m->slots & (1u << i)))
			continue;
		if (e->fds[i] >= 0)
			close(e->fds[i]);
		e->fds[i] = (m->fds & (1u << i)) && next < n ? fds[next++] : -1;
	}
	while (next < n)
		close(fds[next++]);
	if (empty(e))
		*e = table[--used];
}

static void fill(struct keeper_message *m, const struct entry *e) {
	memcpy(m->name, e->name, KEEPER_NAME);
	m->pid = e->pid;
	m->known = e->known;
	m->status = e->status;
	m->at = e->at;
}

static void say(int sock, struct keeper_message *m, const int *fds, int n) {
	char control[CMSG_SPACE(sizeof(int) * KEEPER_SLOTS)];
	struct iovec iov = {m, sizeof *m};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
	if (n > 0) {
		memset(control, 0, sizeof control);
		h.msg_control = control;
		h.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		struct cmsghdr *c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	}
	// It waits for a monitor that is slow; one that died ends the wait.
	while (sendmsg(sock, &h, MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

static void answer(int sock, const struct keeper_message *asked, int status) {
	struct keeper_message m = {.op = KEEPER_END, .seq = asked->seq, .status = status};
	say(sock, &m, NULL, 0);
}

static void list(int sock, const struct keeper_message *asked) {
	for (int i = 0; i < used; i++) {
		struct keeper_message m = {.op = KEEPER_ENTRY, .seq = asked->seq};
		int fds[KEEPER_SLOTS], n = 0;
		for (int s = 0; s < KEEPER_SLOTS; s++)
			if (table[i].fds[s] >= 0) {
				m.fds |= 1u << s;
				fds[n++] = table[i].fds[s];
			}
		fill(&m, &table[i]);
		say(sock, &m, fds, n);
	}
	answer(sock, asked, 0);
}

int table_used(void) { return used; }

int table_knows(int pid) {
	for (int i = 0; i < used; i++)
		if (table[i].pid == pid)
			return 1;
	return 0;
}

void table_reaped(int pid, int status) {
	struct timespec now = {0};
	clock_gettime(CLOCK_REALTIME, &now);
	for (int i = 0; i < used; i++)
		if (table[i].pid == pid && !table[i].known) {
			table[i].known = 1;
			table[i].status = status;
			table[i].at = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
		}
}

int table_receive(int sock, struct keeper_hooks *hooks) {
	struct keeper_message m;
	char control[CMSG_SPACE(sizeof(int) * KEEPER_SLOTS)];
	struct iovec iov = {&m, sizeof m};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	ssize_t got = recvmsg(sock, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (got < 0)
		return errno == EINTR ? 1 : errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
	int fds[KEEPER_SLOTS], n = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
			memcpy(fds, CMSG_DATA(c), n * sizeof(int));
		}
	if (got == 0)
		return -1;
	if (got != sizeof m) { // of a monitor that speaks another protocol: it will not get what it waits for, and end
		m.op = 0;
	}
	m.name[KEEPER_NAME - 1] = 0;
	switch (m.op) {
	case KEEPER_SET:
		set(&m, fds, n);
		return 1;
	case KEEPER_LIST:
		list(sock, &m);
		break;
	case KEEPER_STATUS: {
		hooks->reap();
		struct keeper_message a = {.op = KEEPER_ENTRY, .seq = m.seq};
		struct entry *e = find(m.name);
		if (e)
			fill(&a, e);
		say(sock, &a, NULL, 0);
		break;
	}
	case KEEPER_SERVING:
		hooks->serving();
		break;
	case KEEPER_UPGRADE:
		answer(sock, &m, hooks->upgrade());
		break;
	case KEEPER_ENDING:
		hooks->ending();
		break;
	}
	for (int i = 0; i < n; i++)
		close(fds[i]);
	return 1;
}
