/*
 * See peer.h: what a peer's messages ask for is done, and pages are brought ahead. Threads of peers.c, with every signal masked; nothing of the
 * other process's memory is ever touched but by UFFDIO_….
 */
#include "peer_area.h"
#include "process.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#define STRAYS 64 /* a thread that asks for an address of no area so often in a row is not one that an unmapping has overtaken */
#define HUGE_MOST ((size_t)1 << 30)

static bool is_huge(const pf_peer_t *peer) { return pf_peer_page_size(peer) != pf_os_page_size(); }

/* --- statistics ----------------------------------------------------------------------------------------------------------- */

static pf_peer_tid_t *tid_of(pf_peer_t *peer, uint32_t tid) {
  for (size_t i = 0; i < PF_PEER_TIDS - 1; i++) {
    pf_peer_tid_t *entry = &peer->tids[i];
    if (entry->tid == tid || (entry->tid == 0 && entry->faults == 0)) {
      entry->tid = tid;
      return entry;
    }
  }
  return &peer->tids[PF_PEER_TIDS - 1]; /* all the others */
}

static void count_served(pf_peer_t *peer, uint32_t tid, uint64_t since_ns) {
  uint64_t took = pf_now_ns() - since_ns;
  unsigned bucket = took == 0 ? 0 : 63u - (unsigned)__builtin_clzll(took);
  peer->numbers.histogram[bucket < PF_PEER_BUCKETS ? bucket : PF_PEER_BUCKETS - 1]++;
  peer->numbers.blocked_ns += took;
  tid_of(peer, tid)->blocked_ns += took;
}

/* A page is asked for the first time. Where there is no memory for the record, it ends. */
static void note_touch(pf_peer_t *peer, uint64_t offset) {
  size_t room = peer->trace_room;
  if (!peer->record) {
    return;
  }
  if (!pf_grow((void **)&peer->trace, peer->trace_count, &peer->trace_room, sizeof *peer->trace) ||
      !pf_grow((void **)&peer->trace_ns, peer->trace_count, &room, sizeof *peer->trace_ns)) {
    peer->record = false;
    return;
  }
  peer->trace[peer->trace_count] = (uint32_t)(offset >> peer->page_shift);
  peer->trace_ns[peer->trace_count++] = pf_now_ns() - peer->added_ns;
}

/* --- putting pages there -------------------------------------------------------------------------------------------------- */

/* Zeroes to copy from, as large as the largest page: never written, so that the kernel has one page for all of it. */
static const uint8_t *zeroes(void) {
  static _Atomic(uint8_t *) made;
  uint8_t *have = atomic_load(&made);
  if (have == NULL) {
    void *mapped = mmap(NULL, HUGE_MOST, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
      return NULL;
    }
    if (atomic_compare_exchange_strong(&made, &have, mapped)) {
      return mapped;
    }
    munmap(mapped, HUGE_MOST);
  }
  return have;
}

static int64_t put_zeroes(const pf_peer_t *peer, uint64_t address) {
  int64_t done = is_huge(peer) ? -EEXIST : pf_uffd_zeropage(peer->uffd, address, pf_peer_page_size(peer), 0);
  if (done != -EEXIST) {
    return done;
  }
  const uint8_t *from = zeroes(); /* huge; or a mark (of poison, of write protection), which ZEROPAGE takes for a page */
  return from == NULL ? -ENOMEM : pf_uffd_copy(peer->uffd, address, (uintptr_t)from, pf_peer_page_size(peer), 0);
}

static bool is_loaded(const pf_region_t *region, uint64_t first, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    if ((atomic_load(&region->states[first + i]) & PF_STATE) != PF_PRESENT) {
      return false;
    }
  }
  return true;
}

/* Elsewhere the kernel says what is missing: on backend `thread` it would wait for the page, and the guest with it. So the pages are looked at while they stay. */
static int64_t copy_served(const pf_peer_t *peer, pf_region_t *region, uint64_t address, uint64_t offset, uint64_t length) {
  uint64_t first = offset >> region->page_shift;
  uint32_t count = (uint32_t)(((offset + length - 1) >> region->page_shift) + 1 - first);
  if (pf_pages_hold(region, first, count) != 0) {
    return -ENOMEM;
  }
  int64_t done = is_loaded(region, first, count) ? pf_uffd_copy(peer->uffd, address, (uintptr_t)(region->base + offset), length, 0) : -EFAULT;
  pf_pages_unhold(region, first, count);
  return done;
}

/* From the segment, as far as it has it. -EFAULT: it has to load it. */
static int64_t put_from_segment(const pf_peer_t *peer, uint64_t address, uint64_t offset, uint64_t length) {
  pf_region_t *region = pf_region_by_id(pf_snapshot_segment(peer->snapshot));
  if (region == NULL) {
    return -EBADF;
  }
  bool within = offset + length <= region->length && atomic_load(&region->phase) == PF_PHASE_OPEN;
  int64_t done = -EBADF;
  if (within && region->served) {
    done = copy_served(peer, region, address, offset, length);
  } else if (within) {
    done = pf_uffd_copy(peer->uffd, address, (uintptr_t)(region->base + offset), length, 0);
  }
  pf_region_leave(region);
  return done;
}

static int64_t put_together(pf_peer_t *peer, uint64_t address, uint64_t offset) {
  if (peer->scratch == NULL) {
    void *made = mmap(NULL, pf_peer_page_size(peer), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED) {
      return -ENOMEM;
    }
    peer->scratch = made;
  }
  int err = pf_snapshot_read(peer->snapshot, offset, peer->scratch, pf_peer_page_size(peer));
  return err != 0 ? -EIO : pf_uffd_copy(peer->uffd, address, (uintptr_t)peer->scratch, pf_peer_page_size(peer), 0);
}

/* One page of the snapshot. Bytes, or -errno. *zero: it is one of zeroes. */
static int64_t put_page(pf_peer_t *peer, uint64_t address, uint64_t offset, bool *zero) {
  pf_extent_t extent = pf_snapshot_at(peer->snapshot, offset, pf_peer_page_size(peer));
  *zero = extent.kind == PF_EXTENT_ZERO && extent.end - offset == pf_peer_page_size(peer);
  if (*zero) {
    return put_zeroes(peer, address);
  }
  if (extent.kind == PF_EXTENT_SEGMENT) {
    return put_from_segment(peer, address, offset, pf_peer_page_size(peer));
  }
  if (extent.end - offset == pf_peer_page_size(peer)) {
    return pf_uffd_copy(peer->uffd, address, (uintptr_t)extent.at, pf_peer_page_size(peer), 0);
  }
  return put_together(peer, address, offset);
}

/* --- one fault ------------------------------------------------------------------------------------------------------------ */

typedef struct {
  const pf_area_t *area;
  uint64_t address; /* of the page */
  uint64_t page, since_ns, deferred_ns;
  uint32_t tid;
} fault_t;

/* Again in a moment. A child of spawnPaged may be stopped (Ctrl-Z, a debugger) while it changes its memory: that is no lateness of ours. */
static void defer(pf_peer_t *peer, const fault_t *fault, pf_code_t late) {
  bool patient = peer->again && late == PF_E_TIMEOUT;
  uint64_t now = pf_now_ns(), since = fault->deferred_ns != 0 ? fault->deferred_ns : now;
  if ((!patient && now - since > peer->timeout_ns) ||
      !pf_grow((void **)&peer->deferred, peer->deferred_count, &peer->deferred_room, sizeof *peer->deferred)) {
    pf_peer_fail(peer, fault->area, fault->address, (pf_why_t){.code = late});
    return;
  }
  peer->deferred[peer->deferred_count++] = (pf_deferred_t){fault->address, fault->since_ns, since, fault->tid};
}

/* `count`: it waited for the page to be put there. */
static void present(pf_peer_t *peer, const fault_t *fault, bool count) {
  pf_peer_set_state(peer, fault->page, PF_PAGE_PRESENT);
  if (count) {
    count_served(peer, fault->tid, fault->since_ns);
  }
}

/* What a call of the kernel's said when a page was to be put there. */
static void settle(pf_peer_t *peer, const fault_t *fault, int64_t done, bool zero) {
  bool from_segment = pf_snapshot_segment(peer->snapshot) != 0 && !zero;
  if (done > 0) {
    peer->numbers.demand++;
    peer->numbers.zero += zero;
    peer->numbers.bytes_copied += zero ? 0 : (uint64_t)done;
    present(peer, fault, true);
    return;
  }
  switch (-done) {
    case EEXIST: /* whoever waits there still was not woken by what put it there */
      peer->numbers.duplicates++;
      pf_peer_wake(peer, fault->address, pf_peer_page_size(peer));
      present(peer, fault, !peer->again); /* a child of spawnPaged has no service of a fault that was none */
      return;
    case EAGAIN: /* the process is changing its memory, and says so in an event that is unread, or was read this very moment */
      peer->numbers.deferred++;
      defer(peer, fault, PF_E_TIMEOUT);
      return;
    case ENOMEM:
      peer->numbers.retries++;
      defer(peer, fault, PF_E_NO_MEMORY);
      return;
    case ENOENT: /* unmapped: nobody waits, or for something else by now */
      pf_peer_wake(peer, fault->address, pf_peer_page_size(peer));
      return;
    case ESRCH:
    case ENOSPC: /* older kernels */
      pf_peer_ended(peer);
      return;
    case EFAULT:
      if (from_segment && peer->host->fetch(peer, fault->page, fault->tid, fault->since_ns)) {
        pf_peer_set_state(peer, fault->page, PF_PAGE_FETCHING);
        return;
      }
      pf_peer_fail(peer, fault->area, fault->address, (pf_why_t){.code = from_segment ? PF_E_NO_MEMORY : PF_E_SHORT});
      return;
    default:
      pf_peer_fail(peer, fault->area, fault->address, (pf_why_t){.code = done == -EBADF ? PF_E_CLOSED : PF_E_STORE, .err = (int)-done});
  }
}

static void serve_page(pf_peer_t *peer, const fault_t *fault, bool first) {
  bool zero = true;
  switch (peer->states[fault->page]) {
    case PF_PAGE_FETCHING:
      peer->numbers.duplicates += first;
      return; /* it comes */
    case PF_PAGE_FAILED:
      if (!peer->park) {
        pf_peer_kill(peer);
      }
      return;
    case PF_PAGE_AHEAD:
      peer->numbers.prefetch_hits++;
      note_touch(peer, pf_area_offset(fault->area, fault->address));
      pf_peer_set_state(peer, fault->page, PF_PAGE_PRESENT);
      __attribute__((fallthrough));
    case PF_PAGE_PRESENT: /* asked for twice at once; or gone without an event, from a process that wants none: then zeroes, as the kernel would have it */
    case PF_PAGE_REMOVED:
      if (!peer->again) {
        settle(peer, fault, put_zeroes(peer, fault->address), true);
        return;
      }
      __attribute__((fallthrough)); /* it came back at once, and went: REMOVE is told before it is done. A copy leaves alone what is there */
    default:
      if (first && peer->states[fault->page] == PF_PAGE_ABSENT) {
        note_touch(peer, pf_area_offset(fault->area, fault->address));
      }
      int64_t done = put_page(peer, fault->address, pf_area_offset(fault->area, fault->address), &zero);
      settle(peer, fault, done, zero);
  }
}

/* A thread waits for an address that is in no area. It was unmapped a moment ago, which waking shows; or it is new memory behind an area that moved
 * and grew; or it is none that we were told of. */
static void stray(pf_peer_t *peer, const fault_t *fault, uint64_t address) {
  int64_t done = pf_area_has_grown(peer, fault->address) ? put_zeroes(peer, fault->address) : -ENOENT;
  if (done > 0) {
    peer->numbers.demand++;
    peer->numbers.zero++;
    count_served(peer, fault->tid, fault->since_ns);
    return;
  }
  peer->strays = address != peer->stray ? 0 : done == -EAGAIN ? peer->strays : peer->strays + 1;
  peer->stray = address;
  if (peer->strays >= STRAYS) {
    pf_peer_refuse(peer, address);
  } else {
    pf_peer_wake(peer, fault->address, pf_peer_page_size(peer));
  }
}

static bool locate(const pf_peer_t *peer, uint64_t address, fault_t *fault) {
  fault->address = address & ~(pf_peer_page_size(peer) - 1);
  fault->area = pf_area_at(peer, fault->address);
  if (fault->area != NULL) {
    fault->page = pf_area_page(peer, fault->area, fault->address);
  }
  return fault->area != NULL;
}

static void serve_fault(pf_peer_t *peer, const struct pf_uffd_msg *message, uint64_t now) {
  fault_t fault = {.since_ns = now, .tid = message->thread};
  peer->numbers.faults++;
  tid_of(peer, fault.tid)->faults++;
  if (!locate(peer, message->address, &fault)) {
    stray(peer, &fault, message->address);
  } else if (message->flags & PF_UFFD_PAGEFAULT_FLAG_WP) { /* protected by the process itself, which leaves the answer to us */
    int err = pf_uffd_write_protect(peer->uffd, fault.address, pf_peer_page_size(peer), 0);
    if (err != 0) { /* as of a page that is to come: EAGAIN while an event is unread */
      settle(peer, &fault, err, true);
    }
  } else if (message->flags & PF_UFFD_PAGEFAULT_FLAG_MINOR) {
    int64_t done = pf_uffd_continue(peer->uffd, fault.address, pf_peer_page_size(peer), 0);
    settle(peer, &fault, done, true);
  } else {
    serve_page(peer, &fault, true);
  }
}

void pf_peer_fetched(pf_peer_t *peer, uint64_t page, uint32_t tid, uint64_t since_ns, const pf_why_t *why) {
  fault_t fault = {.since_ns = since_ns, .tid = tid};
  uint64_t address, offset;
  if (peer->gone || !pf_peer_find_page(peer, page, &address, &offset) || !locate(peer, address, &fault)) {
    return; /* unmapped meanwhile: nobody waits */
  }
  bool waits = peer->states[fault.page] == PF_PAGE_FETCHING;
  if (waits) {
    pf_peer_set_state(peer, fault.page, PF_PAGE_ABSENT);
  }
  if (why == NULL) {
    serve_page(peer, &fault, false);
  } else if (waits) {
    pf_peer_fail(peer, fault.area, fault.address, *why);
  } else { /* given back meanwhile */
    pf_peer_wake(peer, fault.address, pf_peer_page_size(peer));
  }
}

/* --- a turn --------------------------------------------------------------------------------------------------------------- */

static void serve_deferred(pf_peer_t *peer) {
  size_t count = peer->deferred_count;
  pf_deferred_t *list = peer->deferred;
  peer->deferred = NULL;
  peer->deferred_count = peer->deferred_room = 0;
  for (size_t i = 0; i < count && !peer->gone; i++) {
    fault_t fault = {.since_ns = list[i].since_ns, .deferred_ns = list[i].deferred_ns, .tid = list[i].tid};
    if (locate(peer, list[i].address, &fault)) {
      serve_page(peer, &fault, false);
    } else {
      pf_peer_wake(peer, list[i].address, pf_peer_page_size(peer));
    }
  }
  free(list);
}

pf_turn_t pf_peer_turn(pf_peer_t *peer) {
  struct pf_uffd_msg *messages = peer->journal;
  int64_t got = peer->gone ? -ESRCH : pf_uffd_read_now(peer->uffd, messages, PF_PEER_MESSAGES * sizeof *messages);
  size_t count = got > 0 ? (size_t)got / sizeof *messages : 0;
  uint64_t now = pf_now_ns();
  for (size_t i = 0; i < count; i++) { /* first: the kernel hands out faults before events that are older */
    if (messages[i].event != PF_UFFD_EVENT_PAGEFAULT) {
      pf_peer_apply(peer, &messages[i]);
      pf_peer_strike(&messages[i]);
    }
  }
  if (peer->deferred_count > 0) {
    serve_deferred(peer);
  }
  for (size_t i = 0; i < count && !peer->gone; i++) {
    if (messages[i].event == PF_UFFD_EVENT_PAGEFAULT) {
      serve_fault(peer, &messages[i], now);
    }
  }
  return (pf_turn_t){(unsigned)count, peer->deferred_count > 0};
}

/* --- ahead ---------------------------------------------------------------------------------------------------------------- */

/* Pages from `address` on that are ABSENT, in one area, up to `most`. */
static uint32_t absent_run(const pf_peer_t *peer, const pf_area_t *area, uint64_t address, uint32_t most) {
  uint64_t page = pf_area_page(peer, area, address), left = (area->end - address) >> peer->page_shift;
  uint32_t count = 0;
  most = left < most ? (uint32_t)left : most;
  while (count < most && peer->states[page + count] == PF_PAGE_ABSENT) {
    count++;
  }
  return count;
}

/* Several threads may be at it, and who only looks need not wait; a turn does (pf_peers_turn). */
static int64_t copy_aside(pf_peer_t *peer, uint64_t address, const uint8_t *from, uint64_t length) {
  peer->copies++;
  pf_unlock(&peer->lock);
  int64_t done = pf_uffd_copy(peer->uffd, address, (uintptr_t)from, length, 0);
  pf_lock(&peer->lock);
  if (--peer->copies == 0 && peer->turns > 0) {
    atomic_fetch_add(&peer->moved, 1);
    pf_futex_wake_all(&peer->moved);
  }
  return done;
}

/* Bytes put there, from the start; *zero: of zeroes. */
static int64_t put_run(pf_peer_t *peer, const pf_area_t *area, uint64_t address, uint64_t length, bool *zero) {
  uint64_t offset = pf_area_offset(area, address), size = pf_peer_page_size(peer);
  pf_extent_t extent = pf_snapshot_at(peer->snapshot, offset, length);
  uint64_t same = (extent.end - offset) & ~(size - 1);
  *zero = extent.kind == PF_EXTENT_ZERO && same > 0;
  if (same == 0) {
    return put_page(peer, address, offset, zero);
  }
  if (extent.kind == PF_EXTENT_SEGMENT) {
    return put_from_segment(peer, address, offset, same);
  }
  if (extent.kind == PF_EXTENT_FILE) {
    return copy_aside(peer, address, extent.at, same);
  }
  return is_huge(peer) ? put_zeroes(peer, address) : pf_uffd_zeropage(peer->uffd, address, same, 0);
}

uint32_t pf_peer_bring_run(pf_peer_t *peer, uint64_t address, uint32_t most) {
  fault_t at = {0};
  bool zero;
  if (peer->gone || !locate(peer, address, &at)) {
    return most;
  }
  uint32_t count = absent_run(peer, at.area, at.address, most);
  if (count == 0) {
    return 1; /* there, or on its way */
  }
  int64_t done = put_run(peer, at.area, at.address, (uint64_t)count << peer->page_shift, &zero);
  uint32_t pages = done > 0 ? (uint32_t)((uint64_t)done >> peer->page_shift) : 0;
  for (uint32_t i = 0; i < pages; i++) {
    pf_peer_set_state(peer, at.page + i, PF_PAGE_AHEAD);
  }
  peer->numbers.prefetched += pages;
  peer->numbers.zero += zero ? pages : 0;
  peer->numbers.bytes_copied += zero || done < 0 ? 0 : (uint64_t)done;
  if (pages > 0) {
    return pages;
  }
  switch (-done) {
    case EEXIST: /* it is there, without our doing */
      pf_peer_set_state(peer, at.page, PF_PAGE_PRESENT);
      pf_peer_wake(peer, at.address, pf_peer_page_size(peer));
      return 1;
    case EAGAIN:
    case ENOMEM:
      return 0;
    case ESRCH:
      pf_peer_ended(peer);
      return most;
    default:
      return 1; /* whoever asks for it hears why it cannot be had */
  }
}
