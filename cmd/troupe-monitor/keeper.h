// What troupe-monitor and its keeper say to each other: one of these a message
// (SOCK_SEQPACKET), with the descriptors that fds names, lowest bit first.

#ifndef TROUPE_KEEPER_H
#define TROUPE_KEEPER_H

#include <stdint.h>

// How many descriptors an entry can have, and how long its name can be.
enum { KEEPER_SLOTS = 8, KEEPER_NAME = 184 };

enum {
	// From the monitor.
	KEEPER_SET = 1, // slots of the entry get the descriptors in fds, and lose what is not in fds; pid < 0: as it was
	KEEPER_LIST,    // answered by an ENTRY for each and an END
	KEEPER_STATUS,  // answered by the ENTRY without its descriptors; pid 0: there is none
	KEEPER_SERVING, // from now on the monitor is restarted when it dies
	KEEPER_UPGRADE, // its next end is for the program that is now at the path; answered by an END whose status is an errno
	KEEPER_ENDING,  // its next end is the end of all
	// From the keeper.
	KEEPER_ENTRY,
	KEEPER_END,
};

struct keeper_message {
	uint32_t op;
	uint32_t seq;    // an answer has that of its request
	int32_t pid;     // of the entry's process; 0: it has none
	uint32_t slots;  // SET: which are meant
	uint32_t fds;    // which come with this message
	int32_t known;   // ENTRY: the keeper has reaped the process
	int32_t status;  // and waitpid(2) said this
	int32_t pad;
	int64_t at;      // when, in nanoseconds since 1970
	char name[KEEPER_NAME];
};

#endif
