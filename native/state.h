/* What the engine says of a page: its state, its marks, why it cannot be had; and the engine's limits. The states are drawn in engine.h. */
#ifndef PF_STATE_H
#define PF_STATE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* --- page states ------------------------------------------------------------------------------------------------- */

enum { PF_ABSENT, PF_LOADING, PF_PRESENT, PF_EVICTING, PF_STAGED, PF_FAILED, PF_INSTALLING };
#define PF_STATE 0x07u
#define PF_WAITED 0x08u /* somebody sleeps on this byte's word: the owner wakes when it moves on */
#define PF_QUEUED 0x10u /* has an entry in the budget's FIFO */
#define PF_STALE 0x20u  /* LOADING: read it again. PRESENT: drop it when it is unpinned */
#define PF_ZEROED 0x40u /* FAILED: opened with zeroes because the user asked for that (unreadable: 'zero') */
#define PF_PINNED 0x80u /* not to be evicted; the count is in pf_region_t.pins */

typedef _Atomic uint8_t pf_state_t;

/* Marks: a second byte for each page of a writable region, changed by atomic or and and. A page is dirty when it has DIRTY or STICKY (and not DISCARD), or,
 * with PF_TRACK_ASYNC, when the kernel says that it was written. */
#define PF_M_DIRTY 1u    /* its bytes may differ from the store's; stays until the store has them, or they are discarded */
#define PF_M_STICKY 2u   /* the same, by a flush that is not confirmed */
#define PF_M_WRITABLE 4u /* PF_TRACK_FAULT: where it is open, it is open for writing. Only its owner sets it */
#define PF_M_DISCARD 8u  /* dropped as soon as nobody holds it, whatever was written */
#define PF_M_OF_MEMORY 15u /* the marks above go when the page leaves memory; those below stay */
/* Eviction has written it, and the store has not confirmed a sync since: one bit for the next sync, one for the one that is under way. */
#define PF_M_OWED_0 16u
#define PF_M_OWED_1 32u
#define PF_M_OWED (PF_M_OWED_0 | PF_M_OWED_1)
/* The sync failed, so the store may have lost it: it is dirty, whether it is in memory or not; where it is, it is DIRTY too. The kernel reports that a file
 * could not be written once, and takes what it could not write for written. */
#define PF_M_LOST 64u

/* --- reasons ------------------------------------------------------------------------------------------------------ */

typedef enum {
  PF_OK,
  PF_E_STORE,      /* the store said no: errno, or the error that JavaScript threw */
  PF_E_SHORT,      /* fewer bytes than the page has */
  PF_E_LONG,       /* more, or not a count */
  PF_E_CHANGED,    /* the file is not the one that was mapped */
  PF_E_TIMEOUT,    /* no answer until the deadline */
  PF_E_GONE,       /* the Worker that runs the store has ended */
  PF_E_DEADLOCK,   /* the store's own thread touched a page that only it could bring */
  PF_E_CLOSED,     /* the segment is closed */
  PF_E_NO_MEMORY,  /* the kernel refuses memory or mappings */
  PF_E_BUDGET,     /* all of the budget is pinned */
  PF_E_WRITE,      /* the store could not write */
  PF_E_SYNC,       /* the store could not make what was written durable */
  PF_E_ABORTED,    /* the caller gave up */
  PF_E_SYSTEM,     /* a system call failed in a way that should not be */
  PF_E_COUNT
} pf_code_t;

typedef struct {
  pf_code_t code;
  int err; /* positive errno, 0 if none */
} pf_why_t;

const char *pf_code_name(pf_code_t code); /* "ERR_PAGEFAULT_…" */

/* --- limits ------------------------------------------------------------------------------------------------------- */

#define PF_PAGE_SHIFT_MAX 21          /* 2 MiB */
#define PF_SCRATCH_MIN ((size_t)1 << 18)
#define PF_LOAD_MAX ((size_t)1 << PF_PAGE_SHIFT_MAX) /* bytes brought by one read */
#define PF_BATCH_MAX 64               /* pages read, installed or evicted in one step */
#define PF_WRITE_MAX ((size_t)1 << 20)  /* bytes written by one order of a pager, but at least a page */
#define PF_STREAMS 4                  /* sequential readers told apart in one region */
#define PF_HISTOGRAM 40
#define PF_NAME_MAX 64
#define PF_BUDGET_PAGES_MIN 4         /* one instruction may need four pages at once */
#define PF_BUDGET_PAGES_MAX 0x80000000u /* 8 TiB of 4 KiB pages */
#define PF_EXIT_GRACE_NS 50000000ULL
#define PF_PAGER_GRACE_NS 250000000ULL /* what a pager gets to name the reason itself */

#endif
