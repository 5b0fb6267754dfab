/*
 * One other process whose memory is paged from here: a userfaultfd of its, the areas that are registered with it, a byte of state a page. Whoever holds its lock
 * is the only one who reads its messages, and who puts pages into it, but for those who bring pages ahead: they look under the lock, copy without it, and nobody
 * reads messages before they are done (`copies`). So no event can be read between the look at a page's state and the end of the copy, and a
 * page that was given back (REMOVE) is never filled with what it was before. While an event is unread the kernel refuses every copy (EAGAIN).
 *
 *     ABSENT ──▶ PRESENT                     demand: pf_peer_turn; ahead: pf_peer_bring_run (AHEAD until it is asked for, as far as that is seen)
 *        │  ▲
 *        ▼  │ fetched, or not
 *     FETCHING                               its segment has to load it first: peers_fetch.c
 *
 *     any ──▶ REMOVED ──▶ PRESENT (zeroes)   the process gave the page back
 *     any ──▶ ABSENT                         the same, of a process that is to see the snapshot there again (`again`), as with a private mapping of a file
 *     ABSENT, FETCHING ──▶ FAILED            it cannot be had: the process is killed, or (park) its thread waits until pf_peer_retry
 *
 * The states lie in an object that may outlive this process (a supervisor holds it): one byte a page, the numbers below; and behind them the journal, into which messages
 * are read: events that this process had taken from the kernel, and had not acted on when it died, are found there by the next one. A page's state is written after the
 * page is there: what is lost at the worst is that it is.
 */
#ifndef PF_PEER_H
#define PF_PEER_H

#include "snapshot.h"
#include "uapi.h"

typedef enum { PF_PAGE_ABSENT, PF_PAGE_PRESENT, PF_PAGE_REMOVED, PF_PAGE_FAILED, PF_PAGE_FETCHING, PF_PAGE_AHEAD } pf_peer_state_t;

/* Addresses of the other process, as they are now, and what they show. */
typedef struct {
  uint64_t start, end;
  uint64_t offset; /* in the snapshot */
  uint64_t first;  /* page: the index of its state */
  bool moved;      /* by the process, which may have made it longer, too */
} pf_area_t;

#define PF_PEER_MESSAGES 32 /* read in one turn */
/* Of the object for so many pages. A shorter one (at least a byte a page) has no journal. */
#define PF_PEER_STATES_BYTES(pages) (((pages) + 31) / 32 * 32 + PF_PEER_MESSAGES * 32)

#define PF_PEER_TIDS 64
#define PF_PEER_BUCKETS 40

typedef struct {
  uint64_t faults, demand, prefetched, prefetch_hits, zero, removed, deferred, duplicates, failures, retries, present, ahead, bytes_copied, blocked_ns;
  uint64_t histogram[PF_PEER_BUCKETS]; /* by powers of two of nanoseconds */
} pf_peer_numbers_t;

typedef struct {
  uint32_t tid;
  uint64_t faults, blocked_ns;
} pf_peer_tid_t;

/* A fault that waits: for an event to be read, or for memory. */
typedef struct {
  uint64_t address, since_ns;
  uint64_t deferred_ns; /* since when it waits so: the time that its store took does not count */
  uint32_t tid;
} pf_deferred_t;

typedef struct pf_peer pf_peer_t;

/* Of a ring (fetch_queue.h). */
typedef struct pf_link pf_link_t;
struct pf_link {
  pf_link_t *next, *previous;
};

/* Faults that wait for a thread to load their pages, under the lock of peers_fetch.c. */
typedef struct {
  pf_link_t link, faults;
} pf_waiting_t;

/* What the peer tells of: called with its lock held; must not wait. */
typedef enum { PF_PEER_PAGE_FAILED, PF_PEER_GONE, PF_PEER_REFUSED, PF_PEER_REPLAYED } pf_peer_event_t;
typedef struct {
  void (*tell)(pf_peer_t *peer, pf_peer_event_t event, uint64_t offset, pf_why_t why);
  /* The page lies in a segment that has not loaded it. False: it cannot be asked for now. */
  bool (*fetch)(pf_peer_t *peer, uint64_t page, uint32_t tid, uint64_t since_ns);
} pf_peer_host_t;

struct pf_peer {
  _Atomic uint32_t refs;
  _Atomic uint32_t closing; /* the waits for a store are cancelled by it */
  _Atomic uint32_t wanted; /* threads that are after the lock to serve */
  uint64_t id;
  uint32_t owner;
  pf_lock_t lock; /* and all below */
  int uffd, pidfd;
  bool park, record, supervised, again;
  _Atomic bool gone, later; /* later: it is to have another turn without a message */
  uint8_t page_shift;
  uint64_t timeout_ns, added_ns;
  pf_snapshot_t *snapshot;
  const pf_peer_host_t *host;
  pf_area_t *areas; /* ascending by address */
  size_t area_count, area_room;
  uint8_t *states;
  size_t mapped; /* bytes of them, with the journal */
  struct pf_uffd_msg *journal, *own_journal; /* own: where the states have none */
  uint64_t pages;
  uint8_t *scratch; /* one page, where it has to be put together */
  pf_deferred_t *deferred;
  size_t deferred_count, deferred_room;
  uint64_t stray, strays; /* a fault outside of every area, and how often it came in a row */
  pf_peer_numbers_t numbers;
  pf_peer_tid_t tids[PF_PEER_TIDS];
  /* the record */
  uint32_t *trace;
  uint64_t *trace_ns;
  size_t trace_count, trace_room;
  /* the replay */
  uint32_t *replay;
  size_t replay_count, replay_at, replay_need; /* need: up to here the kernel was told */
  uint32_t replay_threads; /* at work, or asked for */
  uint32_t copies;         /* under way without the lock; for which `turns` wait that want to read messages */
  uint32_t turns;
  _Atomic uint32_t moved; /* futex: one of them has become 0 */
  uint64_t replay_seen;    /* faults */
  pf_waiting_t waiting;    /* under another lock: see there */
};

typedef struct {
  int uffd, pidfd; /* taken over on success */
  const pf_area_t *areas; /* start, end, offset */
  size_t area_count;
  uint8_t page_shift;
  int states;      /* a descriptor of an object of PF_PEER_STATES_BYTES; stays the caller's */
  bool park, record, adopted;
  bool again;      /* what the process gives back comes from the snapshot once more, instead of as zeroes; it is told of as ended when it has unmapped all of it */
  bool supervised; /* somebody else keeps it when this process ends: it is not killed then */
  uint64_t timeout_ns;
  pf_snapshot_t *snapshot; /* held by the peer from here on */
  const pf_peer_host_t *host;
} pf_peer_options_t;

/* 0 or -errno. `adopted`: threads that wait ask again. Set-up. */
int pf_peer_make(const pf_peer_options_t *options, pf_peer_t **out);
/* The last reference is gone. */
void pf_peer_free(pf_peer_t *peer);

/* All below: lock held. Of the areas (peer_area.c), of serving (peer_serve.c), and of the end (peer.c). */

typedef struct {
  unsigned served; /* messages */
  bool later;      /* faults are deferred: another turn in a moment, also without a message */
} pf_turn_t;
pf_turn_t pf_peer_turn(pf_peer_t *peer);
/* What was fetched: the fault has another try. `why`: it could not be fetched; whoever waits there for something else by now asks again. */
void pf_peer_fetched(pf_peer_t *peer, uint64_t page, uint32_t tid, uint64_t since_ns, const pf_why_t *why);
/* Where a page of the snapshot shows, if it does, and its state. */
bool pf_peer_find_offset(const pf_peer_t *peer, uint64_t offset, uint64_t *address, uint64_t *page);
/* Where a page (the index of its state) is now, and what it shows. False: it was unmapped. */
bool pf_peer_find_page(const pf_peer_t *peer, uint64_t page, uint64_t *address, uint64_t *offset);
/* Brings pages ahead of any fault: up to `count` from this address on that are ABSENT and adjoin in the snapshot. Lets go of the lock meanwhile, so not while
 * `turns` wait. Returns how many pages it has dealt with; 0: not now. */
uint32_t pf_peer_bring_run(pf_peer_t *peer, uint64_t address, uint32_t count);
/* Pages that FAILED are ABSENT, and whoever waits asks again. */
void pf_peer_retry(pf_peer_t *peer);
void pf_peer_kill(pf_peer_t *peer);
/* The process has ended. */
void pf_peer_ended(pf_peer_t *peer);

#endif
