/*
 * Closing pages and keeping their bytes: the first half of every eviction, and the place where a write can be lost. A page leaves its address while
 * threads that do not know of it may be writing to it, so the question is always the same: which writes are in the bytes that are kept, and who says
 * whether there were any?
 *
 * PF_TRACK_ASYNC: the kernel notes writes, and moving a page away forgets the note. Asking first and moving then would lose what is written in between:
 * the page would count as clean, and be dropped. So the bytes are copied before the question:
 *
 *     copy the page ──▶ was it written? ──▶ move it away, atomically ──▶ does it still equal the copy?
 *                            │                                               │
 *      a write before this is told here          a write between the two shows here; one that changes no byte changes nothing
 *
 * A page is clean only if both say so. What is known to be dirty is moved without a copy. What turns out to be clean and need not be kept has been moved next to
 * others of its kind, so that one call drops them all (chute.c).
 *
 * PF_TRACK_FAULT: what is open for writing is protected first. From then on writes are faults, whose threads find the page EVICTING and wait. Reads go on
 * while it is copied; then it is dropped. mprotect, memfd: closing it is one step, and its bytes stay where they are, in the object.
 *
 * Read-only: a copy is the page.
 *
 * Everywhere: who touches the page meanwhile finds it EVICTING and waits for its owner, which is us.
 */
#include "backend.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLOSE_BYTES ((size_t)1 << 20) /* so many pages are looked over in less time than it takes to ask once more */

/* The userfaultfd that pages are moved with (PF_TRACK_ASYNC). */
static pf_own_t mover_of(const pf_region_t *region) { return pf_own_which(false, region->served); }

/* signal: where closed pages are kept, made by the first thread that closes. */
static bool make_staging(pf_region_t *region) {
  if (atomic_load(&region->ours) != NULL) {
    return true;
  }
  void *made;
  if (pf_mem_reserve(region->length, "pagefault staged", &made) != 0) {
    return false;
  }
  if (region->length > PF_MEM_DUMP_MAX) {
    pf_mem_no_dump(made, region->length);
  }
  if (region->track == PF_TRACK_ASYNC && pf_own_uffd_register(mover_of(region), made, region->length, 0) != 0) { /* pages are moved only between ranges that are */
    pf_mem_unmap(made, region->length);
    return false;
  }
  uint8_t *none = NULL;
  if (!atomic_compare_exchange_strong(&region->ours, &none, made)) {
    pf_mem_unmap(made, region->length);
  }
  return true;
}

/* --- by copying ------------------------------------------------------------------------------------------------------------- */

static void copy_run(void *context, uint64_t page, uint32_t count) {
  pf_region_t *region = context;
  memcpy(pf_ours(region, page), pf_page_address(region, page), (size_t)count << region->page_shift);
}

/* A page that the kernel does not have (a drop that failed half-way) would fault here, and this thread would wait for itself. Few long runs
 * are a question each; many short ones are asked for together, but where the faults of system calls are served, too: that question is one. */
static bool all_at_hand(pf_region_t *region, const uint64_t *pages, uint32_t count) {
  pf_span_t spans[PF_BATCH_MAX];
  uint32_t runs = 0;
  for (uint32_t i = 0; i < count; i++) {
    bool next = i > 0 && pages[i] == pages[i - 1] + 1;
    if (next) {
      spans[runs - 1].len += pf_page_size(region);
    } else {
      spans[runs++] = (pf_span_t){.addr = pf_page_address(region, pages[i]), .len = pf_page_size(region)};
    }
  }
  bool short_runs = !region->served && runs > 1 && runs * 4 * pf_os_page_size() > count * pf_page_size(region);
  int hand = short_runs ? pf_mem_at_hand(spans, runs) : -EAGAIN;
  if (hand >= 0) {
    return hand == 1;
  }
  for (uint32_t i = 0; i < runs; i++) {
    if (pf_own_uffd_holds(spans[i].addr, spans[i].len) != 1) {
      return false;
    }
  }
  return true;
}

static void unprotect_open(pf_region_t *region, const uint64_t *pages, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    if ((pf_marks(region, pages[i]) & PF_M_WRITABLE) && pf_back_unprotect(region, pages[i], 1) != 0) {
      pf_unmark(region, pages[i], PF_M_WRITABLE); /* it may be protected: the next write opens it again */
    }
  }
}

/* Pages in which the kernel may let writes through are protected: those that are open for writing, and those of which it is not known since a call failed, which
 * are DIRTY. False: some could not be. */
static bool protect_open(pf_region_t *region, const uint64_t *pages, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    if ((pf_marks(region, pages[i]) & (PF_M_WRITABLE | PF_M_DIRTY)) && pf_back_protect(region, pages[i], 1) != 0) {
      return false;
    }
  }
  return true;
}

/* After a drop that failed, a page of which a copy was made is dropped after all, or whole again. False: it is open. */
static bool drop_or_mend(pf_region_t *region, uint64_t page) {
  uint8_t *at = pf_page_address(region, page), *kept = pf_ours(region, page);
  size_t size = pf_page_size(region), step = pf_os_page_size();
  pf_own_t own = pf_own_of(region, page);
  for (int tries = 0; pf_mem_drop(at, size) != 0; tries++) {
    int err = 0;
    for (size_t done = 0; done < size && (err == 0 || err == -EEXIST); done += step) { /* what is there stays, and is what was copied */
      size_t copied;
      err = pf_own_uffd_copy(own, at + done, kept + done, step, region->writable || region->sealed, &copied);
    }
    if (err == 0 || err == -EEXIST) {
      return false;
    }
    pf_sleep_until(pf_now_ns() + 1000000ULL);
    if (tries == 10000) {
      abort(); /* the kernel refused for ten seconds both to take the page and to put it back: going on would lose it */
    }
  }
  return true;
}

static uint32_t arrange(uint64_t *pages, uint32_t count, uint64_t first, uint64_t then);

/* The kernel refused to drop some of the sorted pages: locked memory. */
static uint32_t close_what_goes(pf_region_t *region, uint64_t *pages, uint32_t count) {
  uint64_t closed = 0;
  for (uint32_t i = 0; i < count; i++) {
    uint64_t one = pages[i];
    if (drop_or_mend(region, one)) {
      closed |= 1ULL << i;
    } else {
      pf_pages_forget(region, &one, 1); /* the copy */
      unprotect_open(region, &one, 1);
    }
  }
  return arrange(pages, count, 0, closed);
}

static uint32_t close_by_copy(pf_region_t *region, uint64_t *pages, uint32_t count) {
  if (!make_staging(region) || !all_at_hand(region, pages, count)) {
    return 0;
  }
  if (!protect_open(region, pages, count)) {
    unprotect_open(region, pages, count);
    return 0;
  }
  pf_runs(region, pages, count, copy_run, region);
  return pf__drop_spans(region, pages, count) ? count : close_what_goes(region, pages, count);
}

/* --- by moving -------------------------------------------------------------------------------------------------------------- */

typedef struct {
  pf_region_t *region;
  uint64_t *pages;
  uint32_t count;
  uint64_t written; /* a bit for each of the pages */
} scan_t;

static void add_written(void *context, uint8_t *start, uint8_t *end) {
  scan_t *scan = context;
  uint64_t first = (uint64_t)(start - scan->region->base) >> scan->region->page_shift;
  uint64_t last = (uint64_t)(end - 1 - scan->region->base) >> scan->region->page_shift;
  for (uint32_t i = 0; i < scan->count; i++) {
    if (scan->pages[i] >= first && scan->pages[i] <= last) {
      scan->written |= 1ULL << i;
    }
  }
}

/* Which of the sorted pages were written: one question for all that lie close together. False: the kernel does not say. */
static bool scan_pages(scan_t *scan, uint64_t of) {
  pf_region_t *region = scan->region;
  uint64_t gap = CLOSE_BYTES >> region->page_shift;
  scan->written = 0;
  for (uint32_t i = 0, last; i < scan->count; i = last + 1) {
    last = i;
    if (!(of >> i & 1)) {
      continue;
    }
    for (uint32_t next = i + 1; next < scan->count && scan->pages[next] - scan->pages[last] <= gap + 1; next++) {
      last = of >> next & 1 ? next : last;
    }
    size_t len = (size_t)(scan->pages[last] + 1 - scan->pages[i]) << region->page_shift;
    if (pf_own_uffd_written(pf_page_address(region, scan->pages[i]), len, add_written, scan) != 0) {
      return false;
    }
  }
  return true;
}

/* One page of the system, from one side to the other, whatever the kernel says about it. What is in its place there while it is still here was left behind by a drop
 * that failed, and is not it. False: it is still where it was. */
static bool move_one(pf_own_t own, uint8_t *to, uint8_t *from) {
  size_t size = pf_os_page_size();
  for (int tries = 0, err = -EAGAIN; tries < 16 && err != -EINVAL; tries++) { /* EINVAL: locked memory, which stays so */
    if (pf_own_uffd_holds(from, size) == 0) {
      return pf_own_uffd_holds(to, size) != 0;
    }
    err = pf_own_uffd_holds(to, size) == 0 || pf_mem_drop(to, size) == 0 ? pf_own_uffd_move(own, to, from, size) : -EAGAIN;
    if (err == 0) {
      return true;
    }
    sched_yield();
  }
  return pf_own_uffd_holds(from, size) == 0;
}

/* Back to where it came from. A page that is in neither place would read as missing, so this does not fail. */
static void move_back(pf_own_t own, uint8_t *to, uint8_t *from, size_t len) {
  size_t step = pf_os_page_size();
  for (size_t at = 0; at < len; at += step) {
    for (int tries = 0; pf_own_uffd_holds(from + at, step) == 1 && !move_one(own, to + at, from + at); tries++) {
      pf_sleep_until(pf_now_ns() + 1000000ULL);
      if (tries == 10000) {
        abort(); /* the kernel refused for ten seconds to put a page back: going on would lose it */
      }
    }
  }
}

/* After a MOVE that failed, which says nothing. True: all of the page is where it was to go; false: all of it is at its address. */
static bool sort_out(pf_region_t *region, uint64_t page, uint8_t *kept) {
  uint8_t *at = pf_page_address(region, page);
  size_t step = pf_os_page_size();
  for (size_t done = 0; done < pf_page_size(region); done += step) {
    if (!move_one(mover_of(region), kept + done, at + done)) {
      move_back(mover_of(region), at, kept, done);
      return false;
    }
  }
  return true;
}

/* Where sorted pages go: those in `out` one after the other into the chute, the others to staging. */
typedef struct {
  uint64_t out;
  pf_chute_t chute;
} ways_t;

static uint8_t *way_of(const pf_region_t *region, const uint64_t *pages, uint32_t i, const ways_t *ways) {
  return ways->out >> i & 1 ? ways->chute.bytes + ((size_t)i << region->page_shift) : pf_ours(region, pages[i]);
}

/* Moves the sorted pages away; a bit for each that is. */
static uint64_t move_pages(pf_region_t *region, const uint64_t *pages, uint32_t count, const ways_t *ways) {
  uint64_t moved = 0;
  for (uint32_t i = 0; i < count;) {
    uint32_t len = 1;
    while (i + len < count && pages[i + len] == pages[i] + len && (ways->out >> (i + len) & 1) == (ways->out >> i & 1)) {
      len++;
    }
    uint8_t *to = way_of(region, pages, i, ways);
    bool all = pf_own_uffd_move(mover_of(region), to, pf_page_address(region, pages[i]), (size_t)len << region->page_shift) == 0;
    for (uint32_t k = i; k < i + len; k++) {
      if (all || sort_out(region, pages[k], way_of(region, pages, k, ways))) {
        moved |= 1ULL << k;
      } else {
        pf_mark(region, pages[k], PF_M_DIRTY); /* part of it may have been away and come back unprotected */
      }
    }
    i += len;
  }
  return moved;
}

static uint64_t bits(uint32_t count) { return count == 64 ? UINT64_MAX : (1ULL << count) - 1; }

static uint64_t known_dirty(const pf_region_t *region, const uint64_t *pages, uint32_t count) {
  uint64_t dirty = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (pf_marks(region, pages[i]) & PF_M_DIRTY) { /* of one that is only STICKY it is asked: else it would be dirty still when its flush is confirmed */
      dirty |= 1ULL << i;
    }
  }
  return dirty;
}

static void mark_all(pf_region_t *region, const uint64_t *pages, uint64_t which) {
  for (; which != 0; which &= which - 1) {
    pf_mark(region, pages[__builtin_ctzll(which)], PF_M_DIRTY);
  }
}

/* Sorts the pages by their bits: those in `first`, those in `then`, the others; each part in order. How many the first two are. */
static uint32_t arrange(uint64_t *pages, uint32_t count, uint64_t first, uint64_t then) {
  uint64_t before[PF_BATCH_MAX];
  uint64_t parts[3] = {first, then & ~first, ~(first | then)};
  memcpy(before, pages, count * sizeof *pages);
  uint32_t at = 0, closed = 0;
  for (int part = 0; part < 3; part++) {
    for (uint32_t i = 0; i < count; i++) {
      if (parts[part] >> i & 1) {
        pages[at++] = before[i];
      }
    }
    closed = part == 1 ? at : closed;
  }
  return closed;
}

#ifdef PF_TEST_ORDER
extern bool pf_test_obvious_order; /* a test of the test: what the obvious order loses */
#else
static const bool pf_test_obvious_order;
#endif

/* Pages of which neither the marks nor the kernel has heard a write are moved out, where there is a chute. */
static uint64_t may_go(pf_region_t *region, const uint64_t *pages, uint64_t clean, pf_chute_t *chute) {
  uint64_t out = 0;
  for (uint64_t left = clean; left != 0; left &= left - 1) {
    uint32_t i = (uint32_t)__builtin_ctzll(left);
    out |= pf_marks(region, pages[i]) & PF_M_STICKY ? 0 : 1ULL << i; /* which its flush will not write again */
  }
  return out != 0 && !pf_test_obvious_order && pf__chute_take(mover_of(region), chute) ? out : 0;
}

/* Moves pages away of which `clean` were copied and not written since. Those in ways->out go into the chute; if they were written all the same they go on to staging,
 * and are out no longer. */
static uint64_t move_and_compare(pf_region_t *region, const uint64_t *pages, uint32_t count, uint64_t clean, const uint8_t *copy, ways_t *ways) {
  size_t size = pf_page_size(region);
  uint64_t moved = move_pages(region, pages, count, ways);
  for (uint64_t left = clean & moved; left != 0 && !pf_test_obvious_order; left &= left - 1) {
    uint32_t i = (uint32_t)__builtin_ctzll(left);
    uint8_t *now = way_of(region, pages, i, ways);
    if (memcmp(copy + i * size, now, size) != 0) {
      pf_mark(region, pages[i], PF_M_DIRTY);
      if (ways->out >> i & 1) {
        move_back(mover_of(region), pf_ours(region, pages[i]), now, size);
        ways->out &= ~(1ULL << i);
      }
    }
  }
  ways->out &= moved;
  return moved;
}

/* Pages that are sorted, together no more than a scratch buffer holds. `gone`: how many of them were clean and are dropped already; NULL: none may be. */
static uint32_t close_by_move(pf_region_t *region, uint64_t *pages, uint32_t count, uint32_t *gone) {
  pf_scratch_t copy;
  size_t size = pf_page_size(region);
  if (!make_staging(region) || !all_at_hand(region, pages, count) || pf_scratch_take(count * size, &copy) != 0) {
    return 0;
  }
  scan_t scan = {.region = region, .pages = pages, .count = count};
  ways_t ways = {0};
  uint64_t all = bits(count), dirty = known_dirty(region, pages, count), moved = 0;
  bool runs = pages[count - 1] - pages[0] < 2 * (uint64_t)count; /* asking is cheap: what is dirty need not be copied */
  bool known = !runs || scan_pages(&scan, all & ~dirty);
  if (known && runs) {
    dirty |= scan.written;
  }
  for (uint32_t i = 0; known && i < count; i++) {
    if (!(dirty >> i & 1)) {
      memcpy(copy.bytes + i * size, pf_page_address(region, pages[i]), size);
    }
  }
  uint64_t clean = all & ~dirty;
  if (known && scan_pages(&scan, clean)) {
    mark_all(region, pages, dirty | scan.written); /* before they move: whoever asks the kernel after that hears nothing of it */
    clean &= ~scan.written;
    ways.out = gone != NULL ? may_go(region, pages, clean, &ways.chute) : 0;
    moved = move_and_compare(region, pages, count, clean, copy.bytes, &ways);
    pf__chute_give(&ways.chute, count * size);
  }
  pf_scratch_give(&copy);
  if (gone != NULL) {
    *gone = (uint32_t)__builtin_popcountll(ways.out);
  }
  return arrange(pages, count, ways.out, moved);
}

/* --- all of them -------------------------------------------------------------------------------------------------------------- */

static uint32_t close_plain(pf_region_t *region, uint64_t *pages, uint32_t count, uint32_t *gone) {
  if (count == 0) {
    return 0;
  }
  if (region->backend == PF_BACKEND_MPROTECT) {
    return pf__close_spans(region, pages, count) ? count : 0;
  }
  if (region->backend == PF_BACKEND_MEMFD) {
    return pf__drop_spans(region, pages, count) ? count : 0; /* from the user's mapping */
  }
  pf__sort_pages(pages, count);
  if (region->track != PF_TRACK_ASYNC) {
    return close_by_copy(region, pages, count);
  }
  uint32_t step = (uint32_t)(PF_LOAD_MAX >> region->page_shift), closed = 0;
  step = step == 0 ? 1 : step < PF_BATCH_MAX ? step : PF_BATCH_MAX;
  for (uint32_t at = 0; at < count; at += step) {
    uint32_t some = count - at < step ? count - at : step;
    uint32_t done = close_by_move(region, pages + at, some, some == count ? gone : NULL);
    if (done < some || closed < at) { /* those that are open go to the end */
      uint64_t moving[PF_BATCH_MAX];
      memcpy(moving, pages + at, done * sizeof *moving);
      memmove(pages + closed + done, pages + closed, (at - closed) * sizeof *pages);
      memcpy(pages + closed, moving, done * sizeof *moving);
    }
    closed += done;
  }
  return closed;
}

static uint32_t close_pages(pf_region_t *region, uint64_t *pages, uint32_t count, uint32_t *gone) {
  uint32_t plain = pf__unpatched_first(region, pages, count);
  uint32_t closed = close_plain(region, pages, plain, gone);
  for (uint32_t i = plain; i < count; i++) {
    if (pf__hide_patched(region, pages[i])) { /* swapped with the first that is open */
      uint64_t page = pages[i];
      pages[i] = pages[closed];
      pages[closed++] = page;
    }
  }
  return closed;
}

uint32_t pf_pages_close(pf_region_t *region, uint64_t *pages, uint32_t count) { return close_pages(region, pages, count, NULL); }

uint32_t pf_pages_close_or_drop(pf_region_t *region, uint64_t *pages, uint32_t count, uint32_t *gone) {
  *gone = 0;
  return close_pages(region, pages, count, gone);
}

int pf_back_restore(pf_region_t *region, uint64_t page) {
  pf_own_t own = mover_of(region);
  if (pf_own_uffd_move(own, pf_page_address(region, page), pf_ours(region, page), pf_page_size(region)) == 0) {
    return 0;
  }
  size_t step = pf_os_page_size();
  for (size_t done = 0; done < pf_page_size(region); done += step) {
    if (!move_one(own, pf_page_address(region, page) + done, pf_ours(region, page) + done)) {
      move_back(own, pf_ours(region, page), pf_page_address(region, page), done);
      return -EAGAIN;
    }
  }
  return 0;
}
