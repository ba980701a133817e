#ifndef TROUPE_KEEPER_TABLE_H
#define TROUPE_KEEPER_TABLE_H

#include "keeper.h"

// keeper_hooks is what messages do beyond the table.
struct keeper_hooks {
	void (*reap)(void);
	void (*serving)(void);
	int (*upgrade)(void); // gives an errno
	void (*ending)(void);
};

// table_receive deals with one message: 1; 0: there is none now; -1: the socket
// has ended.
int table_receive(int sock, struct keeper_hooks *hooks);

// table_used is how many entries there are, table_knows whether one is of the
// process, table_reaped takes down how it ended.
int table_used(void);
int table_knows(int pid);
void table_reaped(int pid, int status);

#endif
