/*
 * The pages of a region: loaded, opened, closed, written, pinned, barred. Called by whoever needs a page, with signals masked; in the handler too unless a function
 * says otherwise.
 */
#ifndef PF_PAGE_H
#define PF_PAGE_H

#include "object.h"

/* --- pages (load.c, page.c) ---------------------------------------------------------------------------------------------- */

struct pf_wait {
  uint64_t deadline_ns;
  _Atomic uint32_t *cancel; /* NULL, or ends the wait when it is not 0 */
  bool heal;                /* a FAILED page is tried again */
  bool background;          /* not a stopped thread: the Worker is not moved to our CPU */
  bool ahead;               /* nobody waits for the page: a pager is asked for it after those that somebody waits for. With `background` and `window` */
  bool write;               /* the page is about to be written */
  int tid;                  /* the thread that wants the page, where another one waits for it; 0: the calling one */
  uint32_t window;          /* pages to load at once; 0: as the reader's pattern says */
  _Atomic uint32_t *doing;  /* NULL, or where pf_doing_t is noted for the watchdog */
};

/* To be called before anything that may take long: a service thread then lets another one listen for faults. */
void pf_about_to_block(void);

/* What a thread that waits for a page is at. */
typedef enum {
  PF_DOES_LOOK,     /* nothing that takes time */
  PF_DOES_READ,     /* the store's read, in C */
  PF_DOES_RETRY,    /* a pause before reading again */
  PF_DOES_ROOM,     /* waits for room in the budget */
  PF_DOES_WAIT,     /* waits for whoever owns the page */
  PF_DOES_ASK,      /* waits for a free slot of the pager */
  PF_DOES_SHARE,    /* another process fills the page of shared memory */
} pf_doing_t;

static inline void pf_note_doing(const pf_wait_t *wait, pf_doing_t doing) {
  if (wait->doing != NULL) {
    atomic_store_explicit(wait->doing, doing, memory_order_relaxed);
  }
}

/* Makes the page present. False with the reason: then the page is FAILED (of a store's reasons) or as it was. */
bool pf_page_ensure(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why);
/* The same for a function that the thread has called, not in a handler: it is seen to wait. */
bool pf_page_ensure_for_call(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why);
/* The reason of a page that is FAILED. */
void pf_page_why_failed(const pf_region_t *region, uint64_t page, pf_why_t *why);
/* Opens a FAILED page with zeroes: only for unreadable: 'zero'. False: the kernel refuses. */
bool pf_page_zero_failed(pf_region_t *region, uint64_t page);
/* A STAGED page that is LOADING (ours). True: PRESENT again, without a read. False: what was kept was of no use and is gone, the page is ABSENT; or the kernel
 * has no memory for a dirty page, which is STAGED again. */
bool pf_page_steal(pf_region_t *region, uint64_t page);
/* Makes a page that is LOADING (ours) visible with the bytes of `from` (NULL: zeroes; mprotect: what lies in region->ours already when
 * `from` points there). PF_OK, PF_E_NO_MEMORY or PF_E_SYSTEM (still LOADING); *again: it went stale meanwhile, read it again (still LOADING). `write`: it is
 * one page and will be written at once, so it may be opened for that, dirty. */
pf_why_t pf_pages_install(pf_region_t *region, uint64_t page, uint32_t count, const uint8_t *from, bool write, bool *again);
/* LOADING → FAILED, uncharged, recorded. message NULL: a default one. False: it went stale meanwhile, so what was wrong may be so no more: read it again (still
 * LOADING). */
bool pf_page_fail(pf_region_t *region, uint64_t page, pf_why_t why, const char *message, const char *cause);
/* Owner gives pages back: LOADING → ABSENT, uncharged. */
void pf_pages_unclaim(pf_region_t *region, uint64_t page, uint32_t count);
/* EVICTING → state, for each page; wakes. */
void pf_page_settle(pf_region_t *region, uint64_t page, unsigned state);
/* PRESENT → INSTALLING: a short ownership of a page that is open. Nothing is waited for meanwhile. False: it is not PRESENT. */
bool pf_page_own(pf_region_t *region, uint64_t page);
/* Pages that the caller owns and that are open (INSTALLING or EVICTING) → PRESENT, and in the budget's queue; those that are STALE and no longer pinned go. */
void pf_pages_return(pf_region_t *region, const uint64_t *pages, uint32_t count);
/* served: threads that wait in the kernel for these pages look again. What they waited for has happened, unless the service thread is still at it. */
void pf_pages_wake(pf_region_t *region, uint64_t page, uint32_t count);
/* Waits while the byte's state is one of an owner's. False with the reason. */
bool pf_page_wait(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why);
/* True with the reason when nothing may be waited for any more: the segment is closed, or the caller gave up. */
bool pf_must_stop(pf_region_t *region, const pf_wait_t *wait, pf_why_t *why);
/* A page that is PRESENT and faulted all the same: looks whether it is open, and opens or forgets it. False with the reason: it is dirty and cannot be opened. */
bool pf_page_reopen(pf_region_t *region, uint64_t page, const pf_wait_t *wait, pf_why_t *why);
/* Copies bytes out, holding each page while it is copied. */
bool pf_region_copy_out(pf_region_t *region, uint64_t offset, uint8_t *into, size_t len, uint64_t *failed_page, pf_why_t *why);

/* --- how pages are open, closed and kept (backend.c) ------------------------------------------------------------------------ */

/* Opens pages with the bytes of `from` (NULL: zeroes), for writing or, where writes are told apart, protected. 0 or -errno; on failure nothing is open. */
int pf_back_open(pf_region_t *region, uint64_t page, uint32_t count, const uint8_t *from, bool writable);
/* mprotect: a page that was closed by a collapse is open again, as its marks say. */
int pf_back_reopen(pf_region_t *region, uint64_t page);
/* The next write to these pages, which are open, is noted (PF_TRACK_ASYNC) or a fault. 0 or -errno: then none or some are protected. */
int pf_back_protect(pf_region_t *region, uint64_t page, uint32_t count);
/* PF_TRACK_FAULT: writes go through. */
int pf_back_unprotect(pf_region_t *region, uint64_t page, uint32_t count);
/* Drops pages that are EVICTING from memory, runs merged, whatever was written to them; they stay EVICTING. Sorts `pages`. False: the kernel refused (its
 * limit on mappings) and they are all still open. */
bool pf_pages_drop(pf_region_t *region, uint64_t *pages, uint32_t count);
/* Closes pages that are EVICTING but keeps their bytes in region->ours. Those that differ from the store's are marked DIRTY. Sorts `pages` so that those that
 * are closed come first; returns how many. The others are open, with every byte that was written. */
uint32_t pf_pages_close(pf_region_t *region, uint64_t *pages, uint32_t count);
/* The same for pages that are to leave memory: the first *gone of those that are closed were clean, and are kept nowhere. */
uint32_t pf_pages_close_or_drop(pf_region_t *region, uint64_t *pages, uint32_t count, uint32_t *gone);
/* PF_TRACK_ASYNC: a closed page that is dirty goes back to its address, as its owner's. -EAGAIN: not now, and it is still closed. */
int pf_back_restore(pf_region_t *region, uint64_t page);
/* Drops what is kept of closed pages (which are EVICTING or LOADING now). */
void pf_pages_forget(pf_region_t *region, uint64_t *pages, uint32_t count);
/* Pages that are PRESENT and pinned: sees to it that they are open, and stay so. False: the kernel has no mapping left. */
bool pf_pages_keep_open(pf_region_t *region, uint64_t first, uint64_t end);
/* Where the bytes of a page that is PRESENT and held can be read without a fault. */
const uint8_t *pf_page_bytes(const pf_region_t *region, uint64_t page);
/* Sorts the pages and calls `each` for each merged run of them; patched pages are runs of their own. */
void pf_runs(const pf_region_t *region, uint64_t *pages, uint32_t count, void (*each)(void *context, uint64_t page, uint32_t count), void *context);

/* --- writes (write.c, flush.c) -------------------------------------------------------------------------------------------- */

/* PF_TRACK_FAULT: a page that is PRESENT is opened for writing, once the store has agreed. True: look again (it may have gone since). */
bool pf_page_admit_write(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why);
/* Copies bytes in, as writes of the calling thread. */
bool pf_region_copy_in(pf_region_t *region, uint64_t offset, const uint8_t *from, size_t len, uint64_t *failed_page, pf_why_t *why);
/* Calls `each` for every run of dirty pages [first, end), ascending. 0 or -errno (of PAGEMAP_SCAN). Waits for pages that are being evicted. */
int pf_region_dirty(pf_region_t *region, uint64_t first, uint64_t end, void (*each)(void *context, uint64_t first, uint64_t end), void *context);
/* Forgets what was written: dirty pages go, those that are held as soon as they are let go. False: the kernel refused some. */
bool pf_region_discard(pf_region_t *region, uint64_t first, uint64_t end);
/* The next write to these pages is a fault again; what is dirty stays dirty. */
void pf_region_reset_write_detection(pf_region_t *region, uint64_t first, uint64_t end);

/* --- pins (pin.c) -------------------------------------------------------------------------------------------------- */

int pf_pin_add(pf_region_t *region, uint64_t first, uint64_t end); /* 0, -ENOMEM, -EOVERFLOW, -EDQUOT (the budget could not hold them) */
void pf_pin_remove(pf_region_t *region, uint64_t first, uint64_t end);
/* The same for one page during a copy: not counted as pinned. */
int pf_page_hold(pf_region_t *region, uint64_t page);
/* The same for some pages, without waiting for one that is leaving: for a flush, which looks at their states afterwards. 0, -ENOMEM, -EOVERFLOW. */
int pf_pages_hold(pf_region_t *region, uint64_t first, uint32_t count);
void pf_pages_unhold(pf_region_t *region, uint64_t first, uint32_t count);
/* A page that was just marked STALE: waits until the copies that hold it are done. True: a real pin keeps it. False: it has gone or is going:
 * look again. */
bool pf_page_outlive_copies(pf_region_t *region, uint64_t page);
void pf_page_unhold(pf_region_t *region, uint64_t page);
/* A page that was invalidated or discarded while it was pinned goes now, if it is PRESENT and no longer pinned. Else whoever has it sees to that when it returns it. */
void pf_page_drop_stale(pf_region_t *region, uint64_t page);

/* --- block.c: page tables ------------------------------------------------------------------------------------------- */

int pf_blocks_make(pf_region_t *region); /* 0 or -errno; does nothing where tables do not matter */
void pf_blocks_free(pf_region_t *region);
/* What its tables have charged to the budget, which is no longer. */
int64_t pf_blocks_overhead(pf_region_t *region);
/* A page leaves ABSENT or FAILED: before its memory is touched. */
void pf_block_enter(pf_region_t *region, uint64_t page);
/* A page has become ABSENT or FAILED again. */
void pf_block_leave(pf_region_t *region, uint64_t page);

/* --- bar.c: pages that are closed to those who want them -------------------------------------------------------------- */

/* Closes the way to a page of a served region that cannot be had; `refused`: that cannot be written. Whoever touches it gets SIGSEGV, a system call EFAULT. 0 or
 * -errno. Not in a handler. */
int pf_page_bar(pf_region_t *region, uint64_t page, bool refused);
bool pf_page_barred(const pf_region_t *region, uint64_t page);
/* A page of the region was, a moment ago. */
bool pf_page_was_barred(const pf_region_t *region);
/* The page's owner opens the way again; if it is not barred: nothing. */
void pf_page_unbar(pf_region_t *region, uint64_t page);
/* The same for one that owns nothing. True: it is open, or stays barred because it is FAILED. False: not now. */
bool pf_page_lift_bar(pf_region_t *region, uint64_t page);
int pf_bars_make(pf_region_t *region); /* 0 or -errno; does nothing where the region is not served. Set-up */
void pf_bars_free(pf_region_t *region);

#endif
