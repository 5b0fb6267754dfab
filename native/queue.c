/*
 * The hand-off between threads that need a page and the thread whose JavaScript brings it (a pager). A fixed number of slots:
 *
 *     FREE ──▶ ASKED ──▶ TAKEN ──▶ FINISHING ──▶ FREE        pf_pager_ask, pf_pager_next, pf_pager_complete or _fail
 *                │          │
 *                └──────────┴──▶ ABANDONED ──▶ FREE          a waiter's deadline, the segment's closing, the pager's death
 *
 * Phase and generation share one word, so that a slot that was used again in between cannot be mistaken. Whoever moves a slot out of
 * ASKED or TAKEN owns the page (it is LOADING) and leaves the region.
 *
 * Asked slots are pushed on a stack that the pager takes as a whole; the event descriptor is written only when the pager sleeps. The pager
 * yields a few times before it does: on one CPU the thread it has just woken runs, and often needs the next page at once. A stopped thread
 * moves a sleeping pager to its own CPU, because waking an idle one costs ten times the hand-off.
 */
#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGERS 64
#define YIELDS 3
#define AHEAD_SLOTS (PF_PAGER_SLOTS / 2) /* the other half is kept for pages that somebody waits for */
#define NONE UINT32_MAX
#define INSTALL_TRIES 50

enum { FREE, ASKED, TAKEN, FINISHING, ABANDONED };

typedef struct {
  _Atomic uint64_t word; /* generation << 3 | phase */
  _Atomic(pf_region_t *) region;
  _Atomic uint64_t page;
  uint64_t deadline_ns, asked_ns;
  uint32_t access;
  uint32_t next;
  uint8_t *bytes; /* the pager's thread only */
  size_t bytes_len;
} slot_t;

struct pf_pager {
  _Atomic uint64_t id; /* index and generation */
  _Atomic uint32_t dead;
  _Atomic uint32_t regions; /* that it serves */
  pthread_t thread;
  pid_t tid;
  int event_fd;
  bool stopped; /* under pagers_lock: its thread serves no more */
  cpu_set_t allowed; /* its CPUs before we bound it to one */
  _Atomic int bound_cpu;
  _Atomic uint32_t asleep;
  _Atomic uint32_t stack; /* index + 1 of the newest asked slot */
  _Atomic uint32_t freed; /* futex: a slot became free */
  _Atomic uint32_t waiters; /* threads asleep on it */
  _Atomic uint32_t served; /* stopped threads served since the last relax */
  uint32_t list; /* the pager's own, oldest first */
  char reason[128]; /* of its death */
  void *owner;      /* the binding's */
  slot_t slots[PF_PAGER_SLOTS];
};

static struct pf_pager pagers[PAGERS];
static pf_lock_t pagers_lock; /* not in a handler */
static _Atomic unsigned descriptors;

/* --- pagers ----------------------------------------------------------------------------------------------------------- */

int pf_pager_create(pf_pager_t **out, int *event_fd) {
  static uint64_t generation;
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) {
    return -errno;
  }
  pf_lock(&pagers_lock);
  pf_pager_t *pager = NULL;
  for (size_t i = 0; pager == NULL && i < PAGERS; i++) {
    if (atomic_load(&pagers[i].id) == 0 || (pagers[i].stopped && pagers[i].event_fd < 0)) {
      pager = &pagers[i];
    }
  }
  if (pager == NULL) {
    pf_unlock(&pagers_lock);
    close(fd);
    return -EMFILE;
  }
  for (size_t i = 0; i < PF_PAGER_SLOTS; i++) {
    slot_t *slot = &pager->slots[i];
    atomic_store(&slot->word, ((atomic_load(&slot->word) >> 3) + 1) << 3 | FREE);
    slot->bytes = NULL;
    slot->bytes_len = 0;
  }
  pager->thread = pthread_self();
  pager->tid = (pid_t)syscall(SYS_gettid);
  pager->event_fd = fd;
  pager->stopped = false;
  sched_getaffinity(0, sizeof pager->allowed, &pager->allowed);
  atomic_store(&pager->bound_cpu, -1);
  atomic_store(&pager->stack, 0);
  atomic_store(&pager->asleep, 1);
  atomic_store(&pager->served, 0);
  pager->list = NONE;
  pager->reason[0] = '\0';
  atomic_store(&pager->dead, 0);
  atomic_store(&pager->id, ++generation * PAGERS + (uint64_t)(pager - pagers));
  pf_unlock(&pagers_lock);
  atomic_fetch_add(&descriptors, 1);
  *out = pager;
  *event_fd = fd;
  return 0;
}

uint64_t pf_pager_id(const pf_pager_t *pager) { return atomic_load(&pager->id); }

pf_pager_t *pf_pager_by_id(uint64_t id) {
  pf_pager_t *pager = &pagers[id % PAGERS];
  return id != 0 && atomic_load(&pager->id) == id ? pager : NULL;
}

bool pf_pager_is_dead(const pf_pager_t *pager) { return atomic_load(&pager->dead) != 0; }
const char *pf_pager_reason(const pf_pager_t *pager) { return pager->reason; }
bool pf_pager_is_mine(const pf_pager_t *pager) { return pthread_equal(pager->thread, pthread_self()); }
void pf_pager_set_owner(pf_pager_t *pager, void *owner) { pager->owner = owner; }
void *pf_pager_owner(const pf_pager_t *pager) { return pager->owner; }
bool pf_pager_is_me(const pf_pager_t *pager) { return pthread_equal(pager->thread, pthread_self()) && !pf_pager_is_dead(pager); }
unsigned pf_pager_descriptors(void) { return atomic_load(&descriptors); }

/* The descriptor goes when the thread has stopped serving and no region is left whose threads might write to it: its number may
 * belong to somebody's file the moment after. pagers_lock held. */
static void close_event(pf_pager_t *pager) {
  if (pager->stopped && pager->event_fd >= 0 && atomic_load(&pager->regions) == 0) {
    close(pager->event_fd);
    pager->event_fd = -1;
    atomic_fetch_sub(&descriptors, 1);
  }
}

void pf_pager_closed(pf_pager_t *pager) {
  pf_lock(&pagers_lock);
  pager->stopped = true;
  close_event(pager);
  pf_unlock(&pagers_lock);
}

pf_pager_t *pf_pager_hold_by_id(uint64_t id) {
  pf_lock(&pagers_lock);
  pf_pager_t *pager = pf_pager_by_id(id);
  if (pager != NULL && pf_pager_is_dead(pager)) {
    pager = NULL;
  }
  if (pager != NULL) {
    atomic_fetch_add(&pager->regions, 1);
  }
  pf_unlock(&pagers_lock);
  return pager;
}

void pf_pager_drop(pf_pager_t *pager) {
  pf_lock(&pagers_lock);
  atomic_fetch_sub(&pager->regions, 1);
  close_event(pager);
  pf_unlock(&pagers_lock);
}

/* --- slots ------------------------------------------------------------------------------------------------------------ */

static bool move_slot(slot_t *slot, unsigned from, unsigned to, uint64_t *word) {
  return (*word & 7) == from && atomic_compare_exchange_strong(&slot->word, word, (*word & ~7ULL) | to);
}

static void free_slot(pf_pager_t *pager, slot_t *slot) {
  slot->region = NULL;
  atomic_store(&slot->word, ((atomic_load(&slot->word) >> 3) + 1) << 3 | FREE);
  atomic_fetch_add(&pager->freed, 1);
  if (atomic_load(&pager->waiters) > 0) {
    pf_futex_wake_all(&pager->freed);
  }
}

/* A free slot made ASKED and filled in, not yet on the stack; NONE when there is none among the first `most`. */
static uint32_t claim_slot(pf_pager_t *pager, uint32_t most, pf_region_t *region, uint64_t page, uint32_t access, uint64_t deadline_ns) {
  for (uint32_t i = 0; i < most; i++) {
    slot_t *slot = &pager->slots[i];
    uint64_t word = atomic_load_explicit(&slot->word, memory_order_relaxed);
    if (!move_slot(slot, FREE, FINISHING, &word)) {
      continue;
    }
    slot->region = region;
    slot->page = page;
    slot->access = access;
    slot->deadline_ns = deadline_ns;
    slot->asked_ns = pf_now_ns();
    atomic_fetch_add(&region->users, 1);
    atomic_store(&slot->word, (word & ~7ULL) | ASKED);
    return i;
  }
  return NONE;
}

static void push(pf_pager_t *pager, uint32_t index) {
  uint32_t head = atomic_load_explicit(&pager->stack, memory_order_relaxed);
  do {
    pager->slots[index].next = head == 0 ? NONE : head - 1;
  } while (!atomic_compare_exchange_weak(&pager->stack, &head, index + 1));
}

/* Moves a sleeping pager to this CPU. */
static void attract(pf_pager_t *pager) {
  int cpu = sched_getcpu();
  if (cpu < 0 || atomic_load_explicit(&pager->bound_cpu, memory_order_relaxed) == cpu) {
    return;
  }
  cpu_set_t here;
  CPU_ZERO(&here);
  CPU_SET(cpu, &here);
  if (sched_setaffinity(pager->tid, sizeof here, &here) == 0) {
    atomic_store_explicit(&pager->bound_cpu, cpu, memory_order_relaxed);
  }
}

static void wake(pf_pager_t *pager, bool stopped) {
  if (stopped) {
    atomic_fetch_add_explicit(&pager->served, 1, memory_order_relaxed);
  }
  if (atomic_exchange(&pager->asleep, 0) != 0) {
    if (stopped) {
      attract(pager);
    }
    uint64_t one = 1;
    while (write(pager->event_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
  }
}

/* After asking: whoever killed the pager or closed the region may have looked before our slot was there. */
static void look_again(pf_pager_t *pager, pf_region_t *region) {
  if (pf_pager_is_dead(pager)) {
    pf_pager_kill(pager, NULL);
  }
  if (atomic_load(&region->phase) != PF_PHASE_OPEN) {
    pf_pager_forget(region);
  }
}

bool pf_pager_ask(pf_region_t *region, uint64_t page, uint32_t access, pf_wait_t *wait, pf_why_t *why) {
  pf_pager_t *pager = region->source.pager;
  for (;;) {
    if (pf_pager_is_dead(pager)) {
      *why = (pf_why_t){.code = PF_E_GONE};
      return false;
    }
    uint32_t seen = atomic_load(&pager->freed);
    uint32_t index = claim_slot(pager, PF_PAGER_SLOTS, region, page, access, wait->deadline_ns);
    if (index != NONE) {
      push(pager, index);
      wake(pager, !wait->background);
      look_again(pager, region);
      return true;
    }
    uint64_t now = pf_now_ns();
    if (now >= wait->deadline_ns) {
      *why = (pf_why_t){.code = PF_E_TIMEOUT};
      return false;
    }
    if (atomic_load(&region->phase) != PF_PHASE_OPEN || (wait->cancel != NULL && atomic_load(wait->cancel) != 0)) {
      *why = (pf_why_t){.code = atomic_load(&region->phase) != PF_PHASE_OPEN ? PF_E_CLOSED : PF_E_ABORTED};
      return false;
    }
    atomic_fetch_add(&pager->waiters, 1);
    pf_futex_wait(&pager->freed, seen, now + 10000000ULL);
    atomic_fetch_sub(&pager->waiters, 1);
    if (pf_exit_begun()) {
      pf_exit_check();
    }
  }
}

bool pf_pager_ask_ahead(pf_region_t *region, uint64_t page) {
  pf_pager_t *pager = region->source.pager;
  uint32_t index = pf_pager_is_dead(pager)
                       ? NONE
                       : claim_slot(pager, AHEAD_SLOTS, region, page, 2, pf_now_ns() + region->timeout_ns);
  if (index == NONE) {
    return false;
  }
  push(pager, index);
  wake(pager, false);
  look_again(pager, region);
  return true;
}

/* --- the pager's thread -------------------------------------------------------------------------------------------------- */

/* Takes the stack and turns it over, so that the oldest comes first. */
static void take_stack(pf_pager_t *pager) {
  uint32_t head = atomic_exchange(&pager->stack, 0);
  uint32_t index = head == 0 ? NONE : head - 1;
  while (index != NONE) {
    uint32_t next = pager->slots[index].next;
    pager->slots[index].next = pager->list;
    pager->list = index;
    index = next;
  }
}

static bool find_order(pf_pager_t *pager, pf_order_t *out) {
  if (pager->list == NONE) {
    take_stack(pager);
  }
  while (pager->list != NONE) {
    uint32_t index = pager->list;
    slot_t *slot = &pager->slots[index];
    pager->list = slot->next;
    uint64_t word = atomic_load(&slot->word);
    pf_region_t *region = slot->region;
    uint64_t page = slot->page;
    atomic_fetch_add(&region->users, 1); /* once it is TAKEN others may take it away, and the region with it */
    if (!move_slot(slot, ASKED, TAKEN, &word)) {
      pf_region_leave(region);
      free_slot(pager, slot); /* abandoned before it was begun */
      continue;
    }
    uint64_t now = pf_now_ns();
    uint64_t offset = page << region->page_shift;
    uint64_t left = region->store_length - offset;
    *out = (pf_order_t){
        .slot = index,
        .store = region->source.store,
        .access = slot->access,
        .offset = offset,
        .length = (uint32_t)(left < pf_page_size(region) ? left : pf_page_size(region)),
        .timeout_ms = slot->deadline_ns > now ? (slot->deadline_ns - now) / 1000000 : 0,
    };
    atomic_fetch_add_explicit(&region->counters.store_reads, 1, memory_order_relaxed);
    pf_region_leave(region);
    return true;
  }
  return false;
}

bool pf_pager_next(pf_pager_t *pager, pf_order_t *out) {
  for (;;) {
    for (int tries = 0; tries <= YIELDS; tries++) {
      if (find_order(pager, out)) {
        atomic_store(&pager->asleep, 0);
        return true;
      }
      sched_yield();
    }
    atomic_store(&pager->asleep, 1);
    if (atomic_load(&pager->stack) == 0) {
      return false;
    }
    atomic_store(&pager->asleep, 0); /* one came while we lay down */
  }
}

uint8_t *pf_pager_buffer(pf_pager_t *pager, uint32_t slot, size_t len) {
  return pager->slots[slot].bytes_len >= len ? pager->slots[slot].bytes : NULL;
}

void pf_pager_set_buffer(pf_pager_t *pager, uint32_t slot, uint8_t *bytes, size_t len) {
  pager->slots[slot].bytes = bytes;
  pager->slots[slot].bytes_len = len;
}

/* Opens the page; the kernel may be short of memory for a moment. */
static pf_why_t install(pf_region_t *region, uint64_t page, const uint8_t *from, bool *again) {
  for (int tries = 1;; tries++) {
    pf_why_t why = pf_pages_install(region, page, 1, from, again);
    if (why.code != PF_E_NO_MEMORY || tries == INSTALL_TRIES) {
      return why;
    }
    pf_sleep_until(pf_now_ns() + 1000000ULL);
  }
}

/* Before the page is opened: whoever waited for it may look at the numbers the moment after. */
static void count_load(const slot_t *slot, pf_region_t *region, int64_t bytes) {
  pf_counters_t *counters = &region->counters;
  pf_note_load_cost(region, pf_now_ns() - slot->asked_ns);
  atomic_fetch_add_explicit(&counters->loads, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&counters->bytes_read, bytes > 0 ? (uint64_t)bytes : 0, memory_order_relaxed);
  if (slot->access == 2) {
    atomic_fetch_add_explicit(&counters->readahead_pages, 1, memory_order_relaxed);
  }
}

/* It was not opened after all. */
static void uncount_load(const slot_t *slot, pf_region_t *region, int64_t bytes) {
  atomic_fetch_sub(&region->counters.loads, 1);
  atomic_fetch_sub(&region->counters.bytes_read, bytes > 0 ? (uint64_t)bytes : 0);
  if (slot->access == 2) {
    atomic_fetch_sub(&region->counters.readahead_pages, 1);
  }
}

/* On the pager's thread: a segment that was closed while it was served is freed by whoever leaves it last. */
static void leave_order(pf_region_t *region) {
  bool closed = atomic_load(&region->phase) == PF_PHASE_CLOSED;
  pf_region_leave(region);
  if (closed) {
    pf_region_reap();
  }
}

/* FINISHING, without a page. */
static void finish_failed(pf_pager_t *pager, slot_t *slot, pf_why_t why, const char *message, const char *cause) {
  pf_region_t *region = slot->region;
  if (slot->access == 2) { /* nobody asked for it: whoever does gets an answer of its own */
    pf_pages_unclaim(region, slot->page, 1);
  } else {
    pf_page_fail(region, slot->page, why, message, cause);
  }
  pf_region_leave(region);
  free_slot(pager, slot);
}

static int complete(pf_pager_t *pager, uint32_t index, int64_t bytes) {
  slot_t *slot = &pager->slots[index];
  uint64_t word = atomic_load(&slot->word);
  if (!move_slot(slot, TAKEN, FINISHING, &word)) {
    if ((word & 7) == ABANDONED) {
      free_slot(pager, slot);
    }
    return 0;
  }
  pf_region_t *region = slot->region;
  uint64_t page = slot->page;
  const uint8_t *from = NULL;
  if (bytes > (int64_t)pf_page_size(region)) {
    finish_failed(pager, slot, (pf_why_t){.code = PF_E_LONG}, NULL, NULL);
    return 0;
  }
  if (bytes >= 0) {
    if (pf_pager_buffer(pager, index, pf_page_size(region)) == NULL) { /* never zeroes instead */
      finish_failed(pager, slot, (pf_why_t){.code = PF_E_SYSTEM}, "the page was answered without a buffer", NULL);
      return 0;
    }
    memset(slot->bytes + bytes, 0, pf_page_size(region) - (size_t)bytes);
    from = slot->bytes;
  }
  bool again;
  count_load(slot, region, bytes);
  pf_why_t why = install(region, page, from, &again);
  if (again) {
    uncount_load(slot, region, bytes);
    atomic_fetch_add(&region->users, 1);
    atomic_store(&slot->word, (word & ~7ULL) | TAKEN);
    bool open = atomic_load(&region->phase) == PF_PHASE_OPEN;
    if (!open) { /* it closed while nobody could take this slot away */
      pf_pager_forget(region);
      free_slot(pager, slot);
    }
    pf_region_leave(region);
    return open;
  }
  if (why.code != PF_OK) {
    uncount_load(slot, region, bytes);
    pf_page_fail(region, page, why, NULL, NULL);
  }
  leave_order(region);
  free_slot(pager, slot);
  return 0;
}

int pf_pager_complete(pf_pager_t *pager, uint32_t index, int64_t bytes) {
  pf_region_t *region = pager->slots[index].region; /* its memory is valid whatever became of the slot */
  if (region == NULL || region->budget == NULL) {
    return complete(pager, index, bytes); /* takes no lock: two system calls less on every page */
  }
  sigset_t before;
  pf_mask_signals(&before);
  int again = complete(pager, index, bytes);
  pf_restore_signals(&before);
  return again;
}

void pf_pager_fail(pf_pager_t *pager, uint32_t index, pf_why_t why, const char *message, const char *cause, bool retire_buffer) {
  slot_t *slot = &pager->slots[index];
  uint64_t word = atomic_load(&slot->word);
  if (retire_buffer) {
    slot->bytes = NULL;
    slot->bytes_len = 0;
  }
  if (!move_slot(slot, TAKEN, FINISHING, &word)) {
    if ((word & 7) == ABANDONED) {
      free_slot(pager, slot);
    }
    return;
  }
  finish_failed(pager, slot, why, message, cause);
}

void pf_pager_count_retry(pf_pager_t *pager, uint32_t index) {
  slot_t *slot = &pager->slots[index];
  uint64_t word = atomic_load(&slot->word);
  if (move_slot(slot, TAKEN, FINISHING, &word)) {
    atomic_fetch_add(&slot->region->counters.retries, 1);
    atomic_fetch_add(&slot->region->counters.store_reads, 1);
    atomic_store(&slot->word, (word & ~7ULL) | TAKEN);
  }
}

bool pf_pager_relax(pf_pager_t *pager) {
  if (atomic_load(&pager->bound_cpu) == -1) {
    return false;
  }
  if (atomic_exchange(&pager->served, 0) != 0) {
    return true;
  }
  atomic_store(&pager->bound_cpu, -1);
  sched_setaffinity(pager->tid, sizeof pager->allowed, &pager->allowed);
  return false;
}

/* --- giving up ------------------------------------------------------------------------------------------------------------- */

/* Takes the slot away if it is what the caller means. Then the page is the caller's, who also leaves the region. */
static bool abandon(slot_t *slot, const pf_region_t *region, const uint64_t *page) {
  uint64_t word = atomic_load(&slot->word);
  unsigned phase = word & 7;
  if ((phase != ASKED && phase != TAKEN) || (region != NULL && slot->region != region) || (page != NULL && slot->page != *page)) {
    return false;
  }
  return move_slot(slot, phase, ABANDONED, &word);
}

bool pf_pager_abandon(pf_region_t *region, uint64_t page) {
  pf_pager_t *pager = region->source.pager;
  for (size_t i = 0; i < PF_PAGER_SLOTS; i++) {
    if (abandon(&pager->slots[i], region, &page)) {
      pf_page_fail(region, page, (pf_why_t){.code = PF_E_TIMEOUT}, NULL, NULL);
      pf_region_leave(region);
      return true;
    }
  }
  return false;
}

void pf_pager_forget(pf_region_t *region) {
  pf_pager_t *pager = region->source.pager;
  for (size_t i = 0; i < PF_PAGER_SLOTS; i++) {
    uint64_t page = pager->slots[i].page;
    if (abandon(&pager->slots[i], region, &page)) {
      pf_pages_unclaim(region, page, 1);
      pf_region_leave(region);
    }
  }
}

void pf_pager_kill(pf_pager_t *pager, const char *reason) {
  if (reason != NULL && atomic_load(&pager->dead) == 0) {
    strncpy(pager->reason, reason, sizeof pager->reason - 1);
  }
  atomic_store(&pager->dead, 1);
  for (size_t i = 0; i < PF_PAGER_SLOTS; i++) {
    slot_t *slot = &pager->slots[i];
    pf_region_t *region = slot->region;
    uint64_t page = slot->page;
    if (region != NULL && abandon(slot, region, &page)) {
      pf_page_fail(region, page, (pf_why_t){.code = PF_E_GONE}, pager->reason, NULL);
      pf_region_leave(region);
    }
  }
  atomic_fetch_add(&pager->freed, 1);
  pf_futex_wake_all(&pager->freed);
}
