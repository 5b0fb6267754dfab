/*
 * How pages are opened, protected and dropped on each backend; close.c has how they are closed with their bytes kept. Any thread, in the signal handler
 * too. Only the owner of a page calls these for it. The one lock here is for the moment when the kernel's mappings run out (mprotect).
 *
 *             a page is read-only      is open for writing          is closed
 *   signal    COPY, write-protected    COPY, or protection lifted   MOVE or DONTNEED
 *   memfd     CONTINUE, protected      CONTINUE, or lifted          DONTNEED; its bytes stay in the object until it is punched
 *   mprotect  PROT_READ                PROT_READ | PROT_WRITE       PROT_NONE; the same
 *
 * A page with shared memory over it is like one of memfd (where there is no userfaultfd: of mprotect), but nothing of ours is ever punched out of it.
 */
#include "backend.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

static int protection(bool writable) { return writable ? PROT_READ | PROT_WRITE : PROT_READ; }

/* --- the kernel's limit on mappings (mprotect) ------------------------------------------------------------------------ */

static pf_lock_t collapse_lock;

/* Closes what is open of a region, except pinned pages, so that it is few mappings again. The states stay: a page that is PRESENT and
 * closed is opened again by the next touch (pf_page_reopen), for the price of one fault and no read. */
static void collapse_region(pf_region_t *region) {
  if (region->backend != PF_BACKEND_MPROTECT || atomic_load(&region->phase) != PF_PHASE_OPEN) {
    return;
  }
  atomic_fetch_add(&region->counters.collapses, 1);
  if (atomic_load(&region->counters.pinned_pages) == 0 && region->pins == NULL) {
    pf_mem_protect(region->base, region->length, PROT_NONE);
    return;
  }
  uint64_t start = 0;
  for (uint64_t page = 0; page <= region->page_count; page++) {
    bool pinned = page < region->page_count && (atomic_load(&region->states[page]) & PF_PINNED);
    if (pinned || page == region->page_count) {
      if (page > start) {
        pf_mem_protect(pf_page_address(region, start), (size_t)(page - start) << region->page_shift, PROT_NONE);
      }
      start = page + 1;
    }
  }
}

static int protect_or_collapse(pf_region_t *region, uint8_t *addr, size_t len, int prot) {
  int err = pf_mem_protect(addr, len, prot);
  if (err != -ENOMEM) {
    return err;
  }
  pf_lock(&collapse_lock);
  err = pf_mem_protect(addr, len, prot); /* somebody else may have made room meanwhile */
  if (err == -ENOMEM) {
    collapse_region(region);
    err = pf_mem_protect(addr, len, prot);
  }
  if (err == -ENOMEM) {
    for (pf_region_t *other = pf_region_next(0); other != NULL;) {
      if (other != region) {
        collapse_region(other);
      }
      uintptr_t end = (uintptr_t)other->base + other->length;
      pf_region_leave(other);
      other = pf_region_next(end);
    }
    err = pf_mem_protect(addr, len, prot);
  }
  pf_unlock(&collapse_lock);
  return err;
}

/* True where the page's marks say that it is open for writing; pages of a read-only region never are. */
static bool opens_writable(const pf_region_t *region, uint64_t page) {
  bool zeroed = (atomic_load(&region->states[page]) & (PF_STATE | PF_ZEROED)) == (PF_FAILED | PF_ZEROED);
  return region->writable && (zeroed || (pf_marks(region, page) & PF_M_WRITABLE));
}

/* Pages from `first` on that are open in the same way become ours, so that nobody changes that in between; how many, 0: the first has gone. */
static uint32_t own_alike(pf_region_t *region, uint64_t first, uint64_t end, uint64_t *pages) {
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + region->timeout_ns};
  pf_why_t why;
  while (!pf_page_own(region, first)) {
    unsigned state = atomic_load(&region->states[first]) & PF_STATE;
    if (state == PF_ABSENT || state == PF_STAGED || state == PF_FAILED || !pf_page_wait(region, first, &wait, &why)) {
      return 0;
    }
  }
  uint32_t count = 1;
  for (pages[0] = first; count < PF_BATCH_MAX && first + count < end && pf_page_own(region, first + count); count++) {
    pages[count] = first + count;
    if (opens_writable(region, first + count) != opens_writable(region, first)) {
      pf_pages_return(region, &pages[count], 1);
      break;
    }
  }
  return count;
}

bool pf_pages_keep_open(pf_region_t *region, uint64_t first, uint64_t end) {
  if (region->backend != PF_BACKEND_MPROTECT) {
    return true;
  }
  for (uint64_t page = first; page < end;) {
    uint64_t pages[PF_BATCH_MAX];
    uint32_t count = own_alike(region, page, end, pages);
    if (count == 0) {
      return false;
    }
    size_t len = (size_t)count << region->page_shift;
    int prot = protection(opens_writable(region, page));
    /* Under the lock of the collapses: one that is under way may have looked before the pages were pinned, a later one sees the pins. */
    pf_lock(&collapse_lock);
    int err = pf_mem_protect(pf_page_address(region, page), len, prot);
    if (err == -ENOMEM) {
      collapse_region(region);
      err = pf_mem_protect(pf_page_address(region, page), len, prot);
    }
    pf_unlock(&collapse_lock);
    pf_pages_return(region, pages, count);
    if (err != 0) {
      return false;
    }
    page += count;
  }
  return true;
}

/* --- opening ---------------------------------------------------------------------------------------------------------- */

/* Never written. */
static const uint8_t zeroes[65536];

/* Zeroes that are write-protected: ZEROPAGE knows no protection. */
static int copy_zeroes(pf_own_t own, uint8_t *addr, size_t len) {
  size_t done;
  int err = 0;
  for (size_t at = 0; err == 0 && at < len; at += sizeof zeroes) {
    err = pf_own_uffd_copy(own, addr + at, zeroes, len - at < sizeof zeroes ? len - at : sizeof zeroes, true, &done);
  }
  return err;
}

/* Whether pages that are not open for writing are write-protected. */
static bool protects(const pf_region_t *region, bool writable) { return region->sealed || (region->writable && !writable); }

static int open_signal(pf_region_t *region, uint64_t page, uint32_t count, const uint8_t *from, bool writable) {
  uint8_t *addr = pf_page_address(region, page);
  size_t len = (size_t)count << region->page_shift, done;
  pf_own_t own = pf_own_of(region, page);
  bool protect = protects(region, writable);
  int err;
  if (from != NULL) {
    err = pf_own_uffd_copy(own, addr, from, len, protect, &done);
  } else if (protect && pf_own_is_sync(own)) {
    err = copy_zeroes(own, addr, len);
  } else { /* with an asynchronous one the kernel's page of zeroes is told from one that was written */
    err = pf_own_uffd_zero(own, addr, len, &done);
  }
  if (err != 0) {
    pf_mem_drop(addr, len); /* whatever was opened: these pages are still the owner's to load */
  }
  return err;
}

/* What lies in our mapping of the same memory becomes visible. */
static int show(pf_region_t *region, uint64_t page, uint32_t count, bool writable) {
  size_t len = (size_t)count << region->page_shift;
  if (pf_kind(region, page) == PF_BACKEND_MEMFD) {
    bool protect = protects(region, writable);
    int err = pf_own_uffd_continue(pf_own_of(region, page), pf_page_address(region, page), len, protect);
    if (err == -EFAULT && pf_is_patched(region, page)) { /* someone took a page out of the memory */
      pf_mem_drop(pf_page_address(region, page), len);
      for (uint32_t i = 0; i < count; i++) {
        pf_patch_mend(region, page + i);
      }
      err = pf_own_uffd_continue(pf_own_of(region, page), pf_page_address(region, page), len, protect);
    }
    if (err != 0) {
      pf_mem_drop(pf_page_address(region, page), len); /* what was shown of them: they are still the owner's to load */
    }
    return err;
  }
  return protect_or_collapse(region, pf_page_address(region, page), len, protection(writable));
}

int pf_back_open(pf_region_t *region, uint64_t page, uint32_t count, const uint8_t *from, bool writable) {
  pf_backend_t kind = pf_kind(region, page);
  if (kind == PF_BACKEND_SIGNAL) {
    return open_signal(region, page, count, from, writable);
  }
  uint8_t *ours = pf_ours(region, page);
  if (from != ours) {
    size_t len = (size_t)count << region->page_shift;
    if (pf_is_patched(region, page)) {
      if (!pf_patch_fill(region, page, from)) {
        return -ESTALE;
      }
    } else if (from != NULL) {
      memcpy(ours, from, len);
    } else if (kind == PF_BACKEND_MEMFD) {
      memset(ours, 0, len); /* a page that does not exist cannot be shown */
    }
  }
  return show(region, page, count, writable);
}

int pf_back_reopen(pf_region_t *region, uint64_t page) {
  if (pf_kind(region, page) == PF_BACKEND_SIGNAL) {
    return 0;
  }
  if (pf_kind(region, page) == PF_BACKEND_MEMFD) {
    return show(region, page, 1, opens_writable(region, page));
  }
  return protect_or_collapse(region, pf_page_address(region, page), pf_page_size(region), protection(opens_writable(region, page)));
}

/* --- protecting --------------------------------------------------------------------------------------------------------- */

int pf_back_protect(pf_region_t *region, uint64_t page, uint32_t count) {
  size_t len = (size_t)count << region->page_shift;
  if (region->backend == PF_BACKEND_MPROTECT) {
    return protect_or_collapse(region, pf_page_address(region, page), len, PROT_READ);
  }
  return pf_own_uffd_protect(pf_own_of(region, page), pf_page_address(region, page), len, true);
}

int pf_back_unprotect(pf_region_t *region, uint64_t page, uint32_t count) {
  size_t len = (size_t)count << region->page_shift;
  if (region->backend == PF_BACKEND_MPROTECT) {
    return protect_or_collapse(region, pf_page_address(region, page), len, PROT_READ | PROT_WRITE);
  }
  return pf_own_uffd_protect(pf_own_of(region, page), pf_page_address(region, page), len, false);
}

const uint8_t *pf_page_bytes(const pf_region_t *region, uint64_t page) {
  return pf_kind(region, page) == PF_BACKEND_SIGNAL ? pf_page_address(region, page) : pf_ours(region, page);
}

/* --- dropping ---------------------------------------------------------------------------------------------------------- */

/* qsort may allocate; victims come almost sorted. */
void pf__sort_pages(uint64_t *pages, uint32_t count) {
  for (uint32_t i = 1; i < count; i++) {
    uint64_t page = pages[i];
    uint32_t at = i;
    for (; at > 0 && pages[at - 1] > page; at--) {
      pages[at] = pages[at - 1];
    }
    pages[at] = page;
  }
}

void pf_runs(const pf_region_t *region, uint64_t *pages, uint32_t count, void (*each)(void *context, uint64_t page, uint32_t count), void *context) {
  pf__sort_pages(pages, count);
  for (uint32_t i = 0; i < count;) {
    uint32_t len = 1;
    while (i + len < count && pages[i + len] == pages[i] + len && !pf_is_patched(region, pages[i]) && !pf_is_patched(region, pages[i + len])) {
      len++;
    }
    each(context, pages[i], len);
    i += len;
  }
}

typedef struct {
  const pf_region_t *region;
  uint8_t *base;
  pf_span_t spans[PF_BATCH_MAX];
  size_t count;
} spans_t;

static void add_span(void *context, uint64_t page, uint32_t count) {
  spans_t *spans = context;
  unsigned shift = spans->region->page_shift;
  spans->spans[spans->count++] = (pf_span_t){.addr = spans->base + (page << shift), .len = (size_t)count << shift};
}

static void merge(const pf_region_t *region, uint8_t *base, uint64_t *pages, uint32_t count, spans_t *out) {
  out->region = region;
  out->base = base;
  out->count = 0;
  pf_runs(region, pages, count, add_span, out);
}

/* mprotect: all of them inaccessible, or none. */
bool pf__close_spans(pf_region_t *region, uint64_t *pages, uint32_t count) {
  spans_t spans;
  merge(region, region->base, pages, count, &spans);
  for (size_t i = 0; i < spans.count; i++) {
    if (protect_or_collapse(region, spans.spans[i].addr, spans.spans[i].len, PROT_NONE) != 0) {
      for (uint32_t undo = 0; undo < count; undo++) { /* those that were not closed yet are opened as they are */
        pf_mem_protect(pf_page_address(region, pages[undo]), pf_page_size(region), protection(opens_writable(region, pages[undo])));
      }
      return false;
    }
  }
  return true;
}

bool pf__drop_spans(pf_region_t *region, uint64_t *pages, uint32_t count) {
  spans_t spans;
  merge(region, region->base, pages, count, &spans);
  return spans.count == 0 || pf_mem_drop_many(spans.spans, spans.count) == 0;
}

uint32_t pf__unpatched_first(const pf_region_t *region, uint64_t *pages, uint32_t count) {
  uint64_t patched[PF_BATCH_MAX];
  uint32_t plain = 0, others = 0;
  if (atomic_load_explicit(&region->patches, memory_order_relaxed) == NULL) {
    return count;
  }
  for (uint32_t i = 0; i < count; i++) {
    if (pf_is_patched(region, pages[i])) {
      patched[others++] = pages[i];
    } else {
      pages[plain++] = pages[i];
    }
  }
  memcpy(pages + plain, patched, others * sizeof *patched);
  return plain;
}

bool pf__hide_patched(pf_region_t *region, uint64_t page) {
  if (pf_kind(region, page) == PF_BACKEND_MEMFD) {
    return pf_mem_drop(pf_page_address(region, page), pf_page_size(region)) == 0;
  }
  return pf__close_spans(region, &page, 1);
}

bool pf_pages_drop(pf_region_t *region, uint64_t *pages, uint32_t count) {
  uint32_t plain = pf__unpatched_first(region, pages, count);
  bool dropped = region->backend == PF_BACKEND_MPROTECT ? plain == 0 || pf__close_spans(region, pages, plain) : pf__drop_spans(region, pages, plain);
  for (uint32_t i = plain; dropped && i < count; i++) {
    dropped = pf__hide_patched(region, pages[i]);
  }
  if (dropped && region->backend != PF_BACKEND_SIGNAL) {
    pf_pages_forget(region, pages, plain);
  }
  return dropped;
}

void pf_pages_forget(pf_region_t *region, uint64_t *pages, uint32_t count) {
  spans_t spans;
  uint32_t plain = pf__unpatched_first(region, pages, count); /* what is shared is not ours to drop */
  if (plain == 0) {
    return;
  }
  merge(region, region->ours, pages, plain, &spans);
  for (size_t i = 0; region->backend != PF_BACKEND_SIGNAL && i < spans.count; i++) {
    pf_mem_punch(spans.spans[i].addr, spans.spans[i].len);
  }
  if (region->backend == PF_BACKEND_SIGNAL && spans.count > 0) {
    pf_mem_drop_many(spans.spans, spans.count);
  }
}
