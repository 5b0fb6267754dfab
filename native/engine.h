/*
 * The engine: regions, pages, budgets, pagers. What is declared here is shared by the files of the in-thread fault path and called by
 * binding.c; none of it knows Node, and nothing but os.h and sync.h reaches the operating system (reads of stores aside).
 *
 * Page states, one byte a page, changed by compare-and-swap:
 *
 *              touch             store answered          page is open           evict             copied, closed
 *    ABSENT ────────────▶ LOADING ─────────────▶ INSTALLING ────────▶ PRESENT ────────▶ EVICTING ───────────▶ STAGED
 *      ▲  ▲  pf_page_ensure │ ▲ ▲   pf_pages_install  │   pages_finish   │  pf_budget_evict │  ▲                  │ │
 *      │  │                 │ │ └─────────────────────┘                  │ pf_region_release│  │ pf_budget_evict  │ │
 *      │  │                 │ │  the kernel has no memory                │                  │  └──────────────────┘ │
 *      │  │    page_fail    ▼ │ pf_page_ensure with heal                 │                  │    (to be dropped)    │
 *      │  │               FAILED                                         ▼                  ▼                       │
 *      │  └──────────────── (invalidate) ──────────────────────────── dropped ◀────── pages_finish(ABSENT)          │
 *      └─ ahead page given up: pages_unclaim                    LOADING ◀── touched: stolen back (steal) ───────────┘
 *
 * INSTALLING was not in the first drawing. It is LOADING past the point of no return: invalidating a LOADING page marks it STALE and it
 * is read again; an INSTALLING page may already be visible, so invalidating waits for it to be PRESENT and drops it.
 *
 * Invariants
 *   (1) PRESENT implies that the page is open in the kernel's tables, with the bytes that the store gave.
 *   (2) The thread (or request) that moved a page to LOADING, INSTALLING or EVICTING owns it: only the owner moves it on.
 *   (3) A page is charged to its budget from before it is read until after it is dropped; STAGED pages are charged.
 *   (4) Nobody waits for a page while holding a lock.
 *   (5) A region's memory is unmapped only when `users` is 0 and it can no longer be found.
 *
 * Locks, in order: registry (region.c) → directory of budgets → budget → pins of a region → failures. The fault path takes the last three, each for a bounded
 * number of steps, with signals masked.
 */
#ifndef PF_ENGINE_H
#define PF_ENGINE_H

#include "os.h"
#include "sync.h"

#include <stdatomic.h>
#include <stdbool.h>
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
  PF_E_ABORTED,    /* the caller gave up */
  PF_E_SYSTEM,     /* a system call failed in a way that should not be */
  PF_E_COUNT
} pf_code_t;

typedef struct {
  pf_code_t code;
  int err; /* positive errno, 0 if none */
} pf_why_t;

#define PF_MESSAGE_MAX 320
#define PF_CAUSE_MAX 3072

typedef struct {
  uint64_t region; /* id */
  uint64_t offset;
  pf_why_t why;
  uint64_t serial; /* order over the process, 0 = unused */
  char message[PF_MESSAGE_MAX];
  char cause[PF_CAUSE_MAX]; /* JSON of a JavaScript error, or "" */
} pf_failure_t;

const char *pf_code_name(pf_code_t code); /* "ERR_PAGEFAULT_…" */

/* --- limits ------------------------------------------------------------------------------------------------------- */

#define PF_PAGE_SHIFT_MAX 21          /* 2 MiB */
#define PF_SCRATCH_MIN ((size_t)1 << 18)
#define PF_LOAD_MAX ((size_t)1 << PF_PAGE_SHIFT_MAX) /* bytes brought by one read */
#define PF_BATCH_MAX 64               /* pages read, installed or evicted in one step */
#define PF_STREAMS 4                  /* sequential readers told apart in one region */
#define PF_HISTOGRAM 40
#define PF_NAME_MAX 64
#define PF_BUDGET_PAGES_MIN 4         /* one instruction may need four pages at once */
#define PF_BUDGET_PAGES_MAX 0x80000000u /* 8 TiB of 4 KiB pages */
#define PF_EXIT_GRACE_NS 50000000ULL
#define PF_PAGER_GRACE_NS 250000000ULL /* what a pager gets to name the reason itself */

/* --- sources ------------------------------------------------------------------------------------------------------ */

typedef enum { PF_SOURCE_FILE, PF_SOURCE_MEMORY, PF_SOURCE_ZERO, PF_SOURCE_PAGER } pf_source_kind_t;

typedef struct {
  uint64_t device, inode, size;
  int64_t mtime_s, mtime_ns;
  bool linked;
} pf_identity_t;

typedef struct pf_pager pf_pager_t;

typedef struct {
  pf_source_kind_t kind;
  /* file: owned descriptor */
  int fd;
  bool check;
  uint64_t offset;
  char *path;
  pf_identity_t identity[2];
  _Atomic uint32_t current; /* which identity counts */
  /* memory: bytes of the user's (shared) or of our own copy */
  const uint8_t *_Atomic bytes;
  void *owned;
  size_t owned_len;
  /* pager */
  pf_pager_t *pager;
  uint32_t store;
} pf_source_t;

/* Takes the identity of the open file. 0 or -errno. */
int pf_source_identify(pf_source_t *source);
/* The file as it is now counts from here on; a file put in its place is opened instead. 0 or -errno. Not in a handler. */
int pf_source_rebase(pf_source_t *source);
/* Reads exactly len bytes at offset of a file, memory or zero source. False with the reason; `permanent`: trying again is no use.
 * On failure `into` holds anything. */
bool pf_source_read(const pf_source_t *source, uint64_t offset, uint8_t *into, size_t len, pf_why_t *why, bool *permanent);
void pf_source_close(pf_source_t *source);

/* --- regions ------------------------------------------------------------------------------------------------------ */

typedef struct pf_budget pf_budget_t;

typedef enum { PF_BACKEND_SIGNAL, PF_BACKEND_MPROTECT } pf_backend_t;
typedef enum { PF_PHASE_FREE, PF_PHASE_OPEN, PF_PHASE_CLOSED } pf_phase_t;

typedef struct {
  _Atomic uint64_t faults, loads, store_reads, bytes_read, readahead_pages, readahead_hits, evictions, steals, waits, retries, failures,
      failed_pages, resident, staged, pinned_pages, collapses;
  _Atomic uint32_t histogram[PF_HISTOGRAM];
} pf_counters_t;

typedef struct pf_region {
  _Atomic uint64_t id;     /* slot and generation; 0 when free */
  _Atomic uint32_t users;  /* threads and requests at work inside; never reset */
  _Atomic uint32_t phase;  /* pf_phase_t */
  uint32_t holders;        /* under the registry lock: how many have it open */
  pf_backend_t backend;
  bool unreadable_zero;    /* a raw touch of a page that cannot be had reads zeroes */
  bool foreign;            /* the memory is not ours to unmap (`into`) */
  bool shared;             /* the memory stays registered when closed, until it is collected */
  bool buffered;           /* JavaScript has a buffer over it, whose end is told by pf_region_memory_gone */
  bool memory_gone;        /* its buffer was detached or collected: it may be unmapped */
  bool drained;            /* closed and shared: pages, budget and store are given back */
  struct pf_region *next_closed; /* under the registry lock */
  uint8_t page_shift;
  const void *lender;      /* the thread (its environment) whose shared bytes a memory source reads in place; NULL: none */
  uint8_t *base;
  size_t length;           /* of the mapping: whole pages */
  uint64_t byte_length;    /* what the user sees */
  uint64_t store_length;   /* what the source has of it; the rest reads zero */
  uint64_t page_count;
  uint8_t *_Atomic ours;   /* mprotect: our mapping of the same memory. signal: staged pages, at the same offset, made when first needed */
  pf_state_t *states;
  size_t states_len;       /* 0: from malloc */
  _Atomic uint8_t *table_pages; /* with a budget: one bit for each system page of `states` that is in use */
  _Atomic uint16_t *blocks; /* with a budget: pages in use in each 2 MiB of addresses, and whether it has a page table (block.c) */
  size_t blocks_len;
  _Atomic uint64_t tables;  /* page tables that are charged */
  pf_lock_t pin_lock;
  uint32_t *pins;          /* made when first needed: pins << 16 | copies under way, for each page */
  pf_budget_t *budget;
  uint32_t budget_first;   /* number of page 0 among the budget's pages */
  bool budget_member;      /* under the budget's lock: its pages may be evicted */
  _Atomic uint64_t charged; /* bytes of it that count in the budget */
  uint64_t timeout_ns;
  int32_t readahead_pages; /* -1: adaptive */
  uint32_t window_max;     /* pages, adaptive */
  _Atomic uint64_t streams[PF_STREAMS]; /* next page << 16 | window of the last load */
  _Atomic uint32_t stream_clock;
  _Atomic uint32_t load_cost_ns; /* moving average of what a page costs to load */
  pf_source_t source;
  _Atomic uint64_t failures_taken; /* serial of the last failure that was told */
  pf_counters_t counters;
  char name[PF_NAME_MAX];
  char store_name[2 * PF_NAME_MAX];
} pf_region_t;

typedef struct {
  uint64_t byte_length, store_length;
  size_t page_size;
  pf_backend_t backend;
  int64_t readahead; /* bytes, -1 adaptive */
  pf_budget_t *budget;
  uint64_t timeout_ms;
  bool unreadable_zero, shared;
  const char *name, *store_name;
  uint8_t *into;     /* NULL, or memory that exists */
  size_t into_length;
  pf_source_t source; /* taken over on success */
} pf_region_options_t;

static inline size_t pf_page_size(const pf_region_t *region) { return (size_t)1 << region->page_shift; }

/* A page was loaded in so many nanoseconds: the moving average decides whether evicting stages. A load counts as 0.4 s at most. */
static inline void pf_note_load_cost(pf_region_t *region, uint64_t cost) {
  uint32_t before = atomic_load_explicit(&region->load_cost_ns, memory_order_relaxed);
  uint64_t after = before - before / 8 + (cost > 400000000 ? 50000000 : cost / 8);
  atomic_store_explicit(&region->load_cost_ns, (uint32_t)after, memory_order_relaxed);
}

/* Makes a region, findable at once. -errno, and `*step` names the system call; then nothing is left behind and the source is still
 * the caller's. */
int pf_region_create(pf_region_options_t *options, pf_region_t **out, const char **step);
/* The open or closed region with this id, entered (users + 1), or NULL. */
pf_region_t *pf_region_by_id(uint64_t id);
/* The region that covers the address, entered, or NULL. In a handler too. */
pf_region_t *pf_region_at(uintptr_t addr);
void pf_region_leave(pf_region_t *region);
/* The first region that ends above the address, entered, or NULL: for walking over all of them. */
pf_region_t *pf_region_next(uintptr_t addr);
/* The nearest region and its distance, for reports. Entered. */
pf_region_t *pf_region_near(uintptr_t addr, uintptr_t *distance);
/* One more holder. False when it is closed. */
bool pf_region_hold(pf_region_t *region);
/* One holder less; with the last, or by force, the region is closed: true. The caller has entered it and leaves it. */
bool pf_region_close(pf_region_t *region, bool force);
/* The memory may be unmapped now: its ArrayBuffer is detached or collected. Any thread, not in a handler. */
void pf_region_memory_gone(uint64_t id);
/* Frees what closed regions still hold, once nobody is inside. */
void pf_region_reap(void);
unsigned pf_region_count(void);

/* Ranges of whole pages, [first, end). */
uint64_t pf_region_release(pf_region_t *region, uint64_t first, uint64_t end); /* bytes freed */
/* False: the kernel refused to drop some of them (locked memory); those are still old. */
bool pf_region_invalidate(pf_region_t *region, uint64_t first, uint64_t end);

/* --- pages (load.c, page.c) ---------------------------------------------------------------------------------------------- */

typedef struct {
  uint64_t deadline_ns;
  _Atomic uint32_t *cancel; /* NULL, or ends the wait when it is not 0 */
  bool heal;                /* a FAILED page is tried again */
  bool background;          /* not a stopped thread: the Worker is not moved to our CPU */
  uint32_t window;          /* pages to load at once; 0: as the reader's pattern says */
} pf_wait_t;

/* Makes the page present. False with the reason: then the page is FAILED (of a store's reasons) or as it was. */
bool pf_page_ensure(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why);
/* Opens a FAILED page with zeroes: only for unreadable: 'zero'. False: the kernel refuses. */
bool pf_page_zero_failed(pf_region_t *region, uint64_t page);
/* A STAGED page that is LOADING (ours). True: PRESENT again, without a read. False: what was kept is gone, the page is ABSENT. */
bool pf_page_steal(pf_region_t *region, uint64_t page);
/* Pages that are PRESENT and pinned: sees to it that they are open, and stay so. False: the kernel has no mapping left. */
bool pf_pages_keep_open(pf_region_t *region, uint64_t first, uint64_t end);
/* Makes a page that is LOADING (ours) visible with the bytes of `from` (NULL: zeroes; mprotect: what lies in region->ours already when
 * `from` points there). PF_OK, PF_E_NO_MEMORY or PF_E_SYSTEM (still LOADING); *again: it went stale meanwhile, read it again (still LOADING). */
pf_why_t pf_pages_install(pf_region_t *region, uint64_t page, uint32_t count, const uint8_t *from, bool *again);
/* LOADING → FAILED, uncharged, recorded. message NULL: a default one. */
void pf_page_fail(pf_region_t *region, uint64_t page, pf_why_t why, const char *message, const char *cause);
/* Owner gives pages back: LOADING → ABSENT, uncharged. */
void pf_pages_unclaim(pf_region_t *region, uint64_t page, uint32_t count);
/* EVICTING → state, for each page; wakes. */
void pf_page_settle(pf_region_t *region, uint64_t page, unsigned state);
/* Waits while the byte's state is one of an owner's. False with the reason. */
bool pf_page_wait(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why);
/* Drops pages that are EVICTING from memory, runs merged; they stay EVICTING. Sorts `pages`. False: the kernel refused (its limit on
 * mappings) and they are all still open. */
bool pf_pages_drop(pf_region_t *region, uint64_t *pages, uint32_t count);
/* A page that is PRESENT and faulted all the same: looks whether it is open, and opens or forgets it. */
void pf_page_reopen(pf_region_t *region, uint64_t page);
/* Closes pages that are EVICTING but keeps their bytes in region->ours. False: not possible now, and they are all still open. */
bool pf_pages_stage(pf_region_t *region, uint64_t *pages, uint32_t count);
/* Drops what is kept of staged pages (which are EVICTING or LOADING now). */
void pf_pages_forget(pf_region_t *region, uint64_t *pages, uint32_t count);
/* Copies bytes out, holding each page while it is copied. */
bool pf_region_copy_out(pf_region_t *region, uint64_t offset, uint8_t *into, size_t len, uint64_t *failed_page, pf_why_t *why);

/* --- pins (pin.c) -------------------------------------------------------------------------------------------------- */

int pf_pin_add(pf_region_t *region, uint64_t first, uint64_t end); /* 0, -ENOMEM, -EOVERFLOW, -EDQUOT (the budget could not hold them) */
void pf_pin_remove(pf_region_t *region, uint64_t first, uint64_t end);
/* The same for one page during a copy: not counted as pinned. */
int pf_page_hold(pf_region_t *region, uint64_t page);
/* A page that was just marked STALE: waits until the copies that hold it are done. True: a real pin keeps it. False: it has gone or is going:
 * look again. */
bool pf_page_outlive_copies(pf_region_t *region, uint64_t page);
void pf_page_unhold(pf_region_t *region, uint64_t page);

/* --- block.c: page tables ------------------------------------------------------------------------------------------- */

int pf_blocks_make(pf_region_t *region); /* 0 or -errno; does nothing where tables do not matter */
void pf_blocks_free(pf_region_t *region);
/* What its tables have charged to the budget, which is no longer. */
int64_t pf_blocks_overhead(pf_region_t *region);
/* A page leaves ABSENT or FAILED: before its memory is touched. */
void pf_block_enter(pf_region_t *region, uint64_t page);
/* A page has become ABSENT or FAILED again. */
void pf_block_leave(pf_region_t *region, uint64_t page);

/* --- budgets (evict.c) --------------------------------------------------------------------------------------------- */

typedef struct {
  uint64_t used, limit, resident, staged, pinned;
} pf_budget_numbers_t;

/* Held once, for the caller. */
int pf_budget_create(uint64_t limit, pf_budget_t **out);
/* Adds a holder / drops one; with the last the budget is freed. */
void pf_budget_hold(pf_budget_t *budget);
void pf_budget_drop(pf_budget_t *budget);
/* -ENOSPC: more than PF_BUDGET_PAGES_MAX pages. -ENOMEM. */
int pf_budget_join(pf_budget_t *budget, pf_region_t *region);
/* Nobody evicts its pages any more: whoever enters it from here on found it elsewhere. */
void pf_budget_detach(pf_region_t *region);
/* Gives back what it still has charged, and its hold on the budget. */
void pf_budget_leave(pf_region_t *region);
/* Makes room for count pages of the region. The first is waited for until the deadline, the others are taken if they can be had.
 * Returns how many were charged, 0 with the reason. */
uint32_t pf_budget_charge(pf_region_t *region, uint32_t count, pf_wait_t *wait, pf_why_t *why);
void pf_budget_uncharge(pf_region_t *region, uint64_t pages);
/* A thread begins or ends loading a page of the region. */
void pf_budget_crowd(pf_region_t *region, int change);
/* Memory of our own that counts besides pages (or, negative, no longer). */
void pf_budget_overhead(pf_budget_t *budget, int64_t bytes);
/* Our own memory takes more than this part of it. */
bool pf_budget_is_strained(const pf_budget_t *budget, unsigned share);
/* Enters pages that have just become PRESENT and are not QUEUED into the FIFO. */
void pf_budget_enqueue(pf_region_t *region, const uint64_t *pages, uint32_t count);
/* Pages of the region were staged (or, negative, are no longer). */
void pf_budget_staged(pf_region_t *region, int64_t bytes);
/* Counts pinned bytes; false when the budget could then hold nothing else. */
bool pf_budget_pin(pf_budget_t *budget, int64_t bytes);
void pf_budget_numbers(const pf_budget_t *budget, pf_budget_numbers_t *out);
uint64_t pf_budget_id(const pf_budget_t *budget);
pf_budget_t *pf_budget_by_id(uint64_t id); /* held */

/* --- scratch.c: buffers that pages are read into ------------------------------------------------------------------- */

typedef struct {
  uint8_t *bytes;
  uint32_t slot;
} pf_scratch_t;

int pf_scratch_take(size_t len, pf_scratch_t *out); /* -ENOMEM */
void pf_scratch_give(pf_scratch_t *scratch);
void pf_scratch_trim(void); /* unmaps what is idle */
unsigned pf_scratch_count(void);
uint64_t pf_scratch_bytes(void);

/* --- queue.c: pages that a pager's thread brings ------------------------------------------------------------------- */

#define PF_PAGER_SLOTS 128

typedef struct {
  uint32_t slot, store, access; /* access 0 read, 1 write, 2 ahead */
  uint64_t offset;
  uint32_t length;    /* of what the store has of the page */
  uint64_t timeout_ms;
} pf_order_t;

/* Made on the thread that will serve. */
int pf_pager_create(pf_pager_t **out, int *event_fd);
uint64_t pf_pager_id(const pf_pager_t *pager);
pf_pager_t *pf_pager_by_id(uint64_t id); /* NULL when that pager is gone */
/* Asks for a page that the caller moved to LOADING and charged. False with the reason: the page is still the caller's. */
bool pf_pager_ask(pf_region_t *region, uint64_t page, uint32_t access, pf_wait_t *wait, pf_why_t *why);
/* Asks for a page nobody waits for, if a slot is free. False: it is still the caller's. */
bool pf_pager_ask_ahead(pf_region_t *region, uint64_t page);
/* For a region that it will serve: NULL when it is gone or dead. */
pf_pager_t *pf_pager_hold_by_id(uint64_t id);
void pf_pager_drop(pf_pager_t *pager);
/* The serving thread: the next order, false when there is none (then it may sleep: the event fd will be written). */
bool pf_pager_next(pf_pager_t *pager, pf_order_t *out);
/* The slot's memory, if it has at least len bytes; NULL otherwise. */
uint8_t *pf_pager_buffer(pf_pager_t *pager, uint32_t slot, size_t len);
/* Gives the slot memory; it stays the caller's to free, once the slot was retired or the pager is dead. */
void pf_pager_set_buffer(pf_pager_t *pager, uint32_t slot, uint8_t *bytes, size_t len);
/* Answers; masks signals itself where it must. bytes -1: zeroes. Returns 1 when the page must be read again (it went stale), else 0: the slot is free. */
int pf_pager_complete(pf_pager_t *pager, uint32_t slot, int64_t bytes);
void pf_pager_fail(pf_pager_t *pager, uint32_t slot, pf_why_t why, const char *message, const char *cause, bool retire_buffer);
void pf_pager_count_retry(pf_pager_t *pager, uint32_t slot);
/* Fails everything that waits, and all that comes. Any thread; again: nothing. */
void pf_pager_kill(pf_pager_t *pager, const char *reason);
/* Its thread stops serving: the descriptor is closed. After pf_pager_kill. */
void pf_pager_closed(pf_pager_t *pager);
void pf_pager_set_owner(pf_pager_t *pager, void *owner);
void *pf_pager_owner(const pf_pager_t *pager);
/* True on the thread that made it. */
bool pf_pager_is_mine(const pf_pager_t *pager);
bool pf_pager_is_dead(const pf_pager_t *pager);
/* Why it died, "" while it lives. */
const char *pf_pager_reason(const pf_pager_t *pager);
/* True when the calling thread is the one that would have to bring the page. */
bool pf_pager_is_me(const pf_pager_t *pager);
/* Gives up on a page's order, for a waiter whose deadline is over. False: there is none (any more). */
bool pf_pager_abandon(pf_region_t *region, uint64_t page);
/* Takes every order of the region away, when it closes. */
void pf_pager_forget(pf_region_t *region);
/* Called by the serving thread from time to time: gives it all its CPUs back when no stopped thread has needed it lately.
 * True while it is bound to one. */
bool pf_pager_relax(pf_pager_t *pager);
unsigned pf_pager_descriptors(void);

/* --- failure.c ------------------------------------------------------------------------------------------------------ */

void pf_failure_record(pf_region_t *region, uint64_t page, pf_why_t why, const char *message, const char *cause);
/* Only the reason, for the fault path: less stack. */
bool pf_failure_why(uint64_t region, uint64_t offset, pf_why_t *out);
/* The newest record of the page. */
bool pf_failure_find(uint64_t region, uint64_t offset, pf_failure_t *out);
/* The oldest record of the region after `serial`. */
bool pf_failure_next(uint64_t region, uint64_t serial, pf_failure_t *out);
/* A sentence for a reason that has no record. */
void pf_failure_describe(const pf_region_t *region, uint64_t page, pf_why_t why, pf_failure_t *out);

/* --- signal.c -------------------------------------------------------------------------------------------------------- */

/* Installs the handlers once; again: looks whether they are still there and puts them back. 0 or -errno. Not in a handler. */
int pf_signal_start(void);
int pf_signal_check(void);
uint64_t pf_signal_reinstalls(void);
uint64_t pf_signal_forwarded(void);
int pf_attempt_begin(void); /* 0 or -errno */
/* True when something failed since the matching begin: which page, and why. */
bool pf_attempt_end(pf_failure_t *out);
void pf_exiting(int code);
/* Not 0 once exit has begun: ends the process when the grace is over. Called by waiters. */
void pf_exit_check(void);
bool pf_exit_begun(void);

/* --- guard.c --------------------------------------------------------------------------------------------------------------- */

/* Sees to it that the handlers stay installed, from the first region to the last. After the region is counted. */
void pf_guard_start(void);

/* --- loader.c: loads on threads of our own ---------------------------------------------------------------------------- */

typedef struct pf_job pf_job_t;
struct pf_job {
  pf_region_t *region; /* entered; the owner of the job leaves it after done */
  uint64_t first, end; /* pages */
  bool pin;            /* the pages are pinned already; unpinned if the load fails */
  _Atomic uint32_t cancel;
  _Atomic uint64_t pages_done;
  pf_why_t why;        /* when done */
  uint64_t failed_page;
  void (*progress)(pf_job_t *job); /* on the loader's thread */
  void (*done)(pf_job_t *job);     /* on the loader's thread; the last thing it does with the job */
  pf_job_t *next;
};

int pf_loader_submit(pf_job_t *job); /* -errno when no thread can be had */
unsigned pf_loader_threads(void);

#endif
