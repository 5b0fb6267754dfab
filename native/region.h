/* The regions of the process: address ranges whose pages are loaded when they are touched (registry.c, region.c, reap.c). */
#ifndef PF_REGION_H
#define PF_REGION_H

#include "os.h"
#include "source.h"
#include "sync.h"

typedef struct pf_budget pf_budget_t;

/* How memory is laid out, opened and closed. THREAD is asked for only: it is SIGNAL whose faults the service thread answers (pf_region_t.served). */
typedef enum { PF_BACKEND_SIGNAL, PF_BACKEND_MPROTECT, PF_BACKEND_MEMFD, PF_BACKEND_THREAD } pf_backend_t;
/* How it is known which pages were written. */
typedef enum {
  PF_TRACK_NONE,  /* read-only */
  PF_TRACK_ASYNC, /* the kernel notes it, kernel writes included */
  PF_TRACK_FAULT, /* the first write to a clean page is a fault */
} pf_track_t;
typedef enum { PF_PHASE_FREE, PF_PHASE_OPEN, PF_PHASE_CLOSED } pf_phase_t;

typedef struct {
  _Atomic uint64_t faults, loads, store_reads, bytes_read, readahead_pages, readahead_hits, evictions, steals, waits, retries, failures,
      failed_pages, resident, staged, pinned_pages, collapses, write_faults, store_writes, bytes_written, flushed_pages, write_backs,
      write_failures, stalls;
  _Atomic uint32_t histogram[PF_HISTOGRAM];
} pf_counters_t;

typedef struct pf_touched pf_touched_t;

typedef struct pf_region {
  _Atomic uint64_t id;     /* slot and generation; 0 when free */
  _Atomic uint32_t users;  /* threads and requests at work inside; never reset */
  _Atomic uint32_t phase;  /* pf_phase_t */
  uint32_t holders;        /* under the registry lock: how many have it open */
  pf_backend_t backend;
  pf_track_t track;
  bool writable;
  bool served;             /* its faults are messages for the service thread, those of system calls too (service.c); else signals */
  bool on_write;           /* the store is asked before the first write to a clean page goes through */
  bool unreadable_zero;    /* a raw touch of a page that cannot be had reads zeroes */
  bool foreign;            /* the memory is not ours to unmap (`into`) */
  bool sealed;             /* read-only by the write protection of its pages, not of the mapping, which somebody else makes writable */
  bool trimmed;            /* closed, and another region has taken a part of its addresses */
  bool shared;             /* the memory stays registered when closed, until it is collected */
  bool buffered;           /* JavaScript has a buffer over it, whose end is told by pf_region_memory_gone */
  bool memory_gone;        /* its buffer was detached or collected: it may be unmapped */
  bool drained;            /* closed and shared: pages, budget and store are given back */
  bool outlived;           /* its buffer was detached while native code may still work on a view of it: the addresses stay reserved (near.c) */
  bool remembered;         /* by near.c */
  uint64_t was;            /* its id, while it has none any more */
  struct pf_region *next_closed; /* under the registry lock */
  uint8_t page_shift;
  _Atomic(const void *) lender; /* the thread (its environment) whose shared bytes a memory source reads in place; NULL: none */
  uint8_t *base;
  size_t length;           /* of the mapping: whole pages */
  uint64_t byte_length;    /* what the user sees */
  uint64_t store_length;   /* what the source has of it; the rest reads zero */
  uint64_t page_count;
  uint64_t store_pages;    /* pages of which the store has at least a byte; what lies behind is never written back */
  _Atomic uint64_t reach;  /* pages that may be accessible: all, but of memory that grows (a WebAssembly.Memory) those that exist as far as we know */
  size_t exists;           /* foreign: bytes that were there when it was made */
  size_t guarded;          /* signal: bytes from the start that were made read-only by mprotect: a write there is SIGSEGV */
  uint8_t *_Atomic ours;   /* mprotect, memfd: our mapping of the same memory. signal: staged pages, at the same offset, made when first needed */
  _Atomic uint8_t *bars;   /* served: a bit for each page (bar.c) */
  _Atomic uint64_t unbarred_at; /* the last time */
  pf_lock_t patch_lock;    /* of whoever changes them; held while pages are waited for, so never in a handler */
  _Atomic uint64_t remapped_at; /* when memory was last laid over a part of it: for a moment it was inaccessible */
  _Atomic(struct pf_patches *) patches; /* shared memory over parts of it (patch.c); NULL: none */
  struct pf_patches *retired; /* under patch_lock: lists that were replaced */
  _Atomic uint8_t *marks;  /* writable: PF_M_…; else NULL */
  _Atomic uint32_t flushing; /* futex: 1 while a flush runs */
  _Atomic uint32_t unsynced; /* eviction has written since the store was last synced */
  _Atomic uint32_t syncs;  /* begun; its last bit says which of PF_M_OWED is for the next one */
  _Atomic uint64_t write_failure_at; /* when one was last recorded: those of eviction repeat */
  pf_state_t *states;
  size_t states_len;       /* 0: from malloc */
  _Atomic uint8_t *table_pages; /* with a budget: one bit for each system page of `states` that is in use */
  _Atomic uint16_t *blocks; /* with a budget: pages in use in each 2 MiB of addresses, and whether it has a page table (block.c) */
  size_t blocks_len;
  _Atomic uint64_t tables;  /* page tables that are charged */
  pf_lock_t pin_lock;
  uint32_t *_Atomic pins;  /* made when first needed: pins << 16 | copies under way, for each page */
  pf_budget_t *budget;
  uint32_t budget_first;   /* number of page 0 among the budget's pages */
  bool budget_member;      /* under the budget's lock: its pages may be evicted */
  _Atomic uint64_t charged; /* bytes of it that count in the budget */
  uint64_t timeout_ns;
  uint64_t stall_after_ns; /* a page that takes longer is told of; 0: none is */
  uint64_t poll_ns;        /* how often it wants our handlers looked after */
  uint64_t stall_said_at;  /* the watchdog's: when stderr was last told */
  int32_t readahead_pages; /* -1: adaptive */
  uint32_t window_max;     /* pages, adaptive */
  uint32_t ask_max;        /* pages that a pager's store is asked for at once, where nobody waits; at least 1 */
  _Atomic uint64_t streams[PF_STREAMS]; /* next page << 16 | window of the last load */
  _Atomic uint32_t stream_clock;
  _Atomic uint32_t load_cost_ns; /* moving average of what a page costs to load */
  _Atomic(pf_touched_t *) touched; /* the order of first touch (touched.h); NULL: nobody asked for it */
  pf_source_t source;
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
  uint64_t longest_read; /* bytes that a pager's store is asked for at once where nobody waits; 0: a page */
  uint64_t timeout_ms, stall_after_ms, poll_ms;
  bool unreadable_zero, shared;
  bool writable, on_write;
  pf_track_t track; /* chosen by pf_region_create */
  const char *name, *store_name;
  uint8_t *into;     /* NULL, or memory that exists */
  size_t into_length;
  bool into_sealed;
  bool into_grows;   /* what of the region is behind into_length is reserved, and may be opened by its owner */
  char other[PF_NAME_MAX]; /* -EBUSY: the region that pages some of it */
  pf_source_t source; /* taken over on success */
} pf_region_options_t;

static inline size_t pf_page_size(const pf_region_t *region) { return (size_t)1 << region->page_shift; }

static inline uint8_t *pf_page_address(const pf_region_t *region, uint64_t page) { return region->base + (page << region->page_shift); }

/* How many bytes of these pages the store has. It has some of the first. */
static inline size_t pf_stored_bytes(const pf_region_t *region, uint64_t first, uint32_t count) {
  uint64_t left = region->store_length - (first << region->page_shift), whole = (uint64_t)count << region->page_shift;
  return (size_t)(left < whole ? left : whole);
}

static inline unsigned pf_marks(const pf_region_t *region, uint64_t page) {
  return region->marks == NULL ? 0 : atomic_load(&region->marks[page]);
}

static inline void pf_mark(pf_region_t *region, uint64_t page, unsigned marks) {
  if (region->marks != NULL) {
    atomic_fetch_or(&region->marks[page], (uint8_t)marks);
  }
}

static inline void pf_unmark(pf_region_t *region, uint64_t page, unsigned marks) {
  if (region->marks != NULL) {
    atomic_fetch_and(&region->marks[page], (uint8_t)~marks);
  }
}

/* A page was loaded in so many nanoseconds: the moving average decides whether evicting stages. A load counts as 0.4 s at most. */
static inline void pf_note_load_cost(pf_region_t *region, uint64_t cost) {
  uint32_t before = atomic_load_explicit(&region->load_cost_ns, memory_order_relaxed);
  uint64_t after = before - before / 8 + (cost > 400000000 ? 50000000 : cost / 8);
  atomic_store_explicit(&region->load_cost_ns, (uint32_t)after, memory_order_relaxed);
}

/* Makes a region, findable at once. -errno, and `*step` names the system call; then nothing is left behind and the source is still
 * the caller's. With `into`: closed regions that had the memory give it up; -EBUSY: an open one has it; -EFAULT: it is not there; -EOPNOTSUPP: it has no
 * reserve to grow into, or grows where its backend cannot follow. */
int pf_region_create(pf_region_options_t *options, pf_region_t **out, const char **step);
/* The owner of memory that exists is about to unmap it: closed regions let go of it, and it is ordinary, empty memory. -EBUSY: an open one has some of it, and
 * is named in `other`. -EAGAIN: threads are still inside a closed one. */
int pf_region_forget(uint8_t *base, size_t len, char other[PF_NAME_MAX]);
/* Pages up to `end` turned out to be accessible: memory that exists has grown. */
static inline void pf_region_reaches(pf_region_t *region, uint64_t end) {
  uint64_t known = atomic_load_explicit(&region->reach, memory_order_relaxed);
  while (end > known && end <= region->page_count && !atomic_compare_exchange_weak(&region->reach, &known, end)) {
  }
}
/* The open or closed region with this id, entered (users + 1), or NULL. */
pf_region_t *pf_region_by_id(uint64_t id);
/* The region that covers the address, entered, or NULL. In a handler too. */
pf_region_t *pf_region_at(uintptr_t addr);
void pf_region_leave(pf_region_t *region);
/* The first region that ends above the address, entered, or NULL: for walking over all of them. */
pf_region_t *pf_region_next(uintptr_t addr);
/* What has the addresses next to one. */
typedef struct {
  uintptr_t start, end;
  uint64_t distance; /* from the address to its first or last byte; 0: the address is inside */
  uint64_t freed_at; /* 0: it is there */
  uint64_t id;       /* freed: that it had */
  bool reserved;     /* freed: nothing else lies there */
  bool unused;       /* freed: nobody can use the addresses any more */
  char name[PF_NAME_MAX];
  char store_name[2 * PF_NAME_MAX];
} pf_near_t;
/* The nearest region within `most` bytes, of those that are there and of the last that were freed. For reports, in a handler too, even one that interrupted
 * the table's own code: false when there is none, or when it cannot be known. */
bool pf_near(uintptr_t addr, uint64_t most, pf_near_t *out);
/* The region is about to be no more found at its addresses. Signals masked, as for the next two. */
void pf_near_remember(const pf_region_t *region);
/* Its memory goes, but the addresses stay reserved until pf_near_release, or until there are many. After pf_near_remember. */
void pf_near_bar(const pf_region_t *region);
/* Gives back the addresses of the region that had this id. */
void pf_near_release(uint64_t id);
/* Those of all. True: there were some. Not in a handler. */
bool pf_near_release_all(void);
/* For pf_near: the regions on both sides of the address, or around it; entered, NULL where there is none. False: the table is being changed. */
typedef struct {
  pf_region_t *region;
  uintptr_t start, end;
} pf_neighbour_t;
bool pf_region_neighbours(uintptr_t addr, pf_neighbour_t out[2]);
/* One more holder. False when it is closed. */
bool pf_region_hold(pf_region_t *region);
/* One holder less, unless it is the last: then false, and nothing has changed. */
bool pf_region_unhold(pf_region_t *region);
/* One holder less; with the last, or by force, the region is closed: true. The caller has entered it and leaves it. */
bool pf_region_close(pf_region_t *region, bool force);
/* The memory may be unmapped now: its ArrayBuffer is detached or collected. Any thread, not in a handler. */
void pf_region_memory_gone(uint64_t id);
/* The same of a buffer that is about to be detached, which native code may still work on: the addresses stay reserved until pf_region_unused. */
void pf_region_outlived(pf_region_t *region);
/* The detached buffer is collected, so that nobody can use the addresses any more. Any thread, not in a handler. */
void pf_region_unused(uint64_t id);
/* Frees what closed regions still hold, once nobody is inside. */
void pf_region_reap(void);
/* In a forked child: the ranges that its parent had, as the fork found them. */
typedef struct {
  uintptr_t start, end;
  const char *name;
} pf_inherited_t;
/* The range with this index, which may be empty, or there twice. False: there are no more. Takes no lock and waits for nobody. */
bool pf_region_inherited(size_t index, pf_inherited_t *out);
unsigned pf_region_count(void);
/* The smallest poll_ns of those that are open, UINT64_MAX where there is none. */
uint64_t pf_region_least_poll(void);
/* True when some are closed and not freed. */
bool pf_region_any_closed(void);
/* True when missing pages of some are SIGSEGV. */
bool pf_region_any_by_segv(void);

/* Ranges of whole pages, [first, end). release and invalidate leave dirty pages alone. */
uint64_t pf_region_release(pf_region_t *region, uint64_t first, uint64_t end); /* bytes freed */
/* False: the kernel refused to drop some of them (locked memory); those are still old. */
bool pf_region_invalidate(pf_region_t *region, uint64_t first, uint64_t end);

#endif
