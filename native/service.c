/*
 * Backend 'thread': faults that the thread itself cannot answer, because it is in the kernel (read(2) into a page that is not there). They come as
 * messages of a userfaultfd without SIGBUS, and the thread, in the kernel or not, waits there until its page is there or it is told to look again. Service threads of
 * ours read the messages and do what the signal handler does elsewhere (fault.c). Stores in C are answered without any JavaScript.
 *
 * One service thread at a time listens, the leader; it serves what it reads by itself as long as that cannot take long, because waking another thread
 * takes longer than most faults. Before it waits for anything (pf_about_to_block) it hands over:
 *
 *     idle ──▶ leader ──▶ serves, listening still ──▶ leader
 *      ▲                        │ pf_about_to_block: an idle one leads; if there is none, a new thread
 *      └────────────────────────┴─▶ serves ──▶ idle
 *
 * A thread that waits has one fault, so there are never more service threads than threads that wait, and two. As a second net the guard's thread takes
 * the lead away from one that has been at the same fault for long (pf_service_look).
 *
 * One page is served by one of them. Messages about a page that is being served are only noted: every thread that waits for it is woken in the end, and asks again
 * if that was not enough for it. (Signals make the kernel repeat messages: 1 kHz of them, 1 kHz of messages.)
 *
 * A page that cannot be had is barred: by mprotect, so that the thread finds itself in the handler of SIGSEGV, at its instruction, where the verdict waits for it
 * (signal.c); a system call gets EFAULT. That works on every kernel; UFFDIO_POISON would need 6.6, and is for missing pages only. A bar stays while the page is FAILED;
 * else it goes when the thread has heard, or after a while, should it never ask, because it was in the kernel.
 *
 * Locks: a service's own, and the verdicts'. Nothing is waited for under either. Service threads have every signal masked.
 */
#include "service.h"

#include "fault.h"
#include "report.h"
#include "uapi.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define SERVICES 2
#define THREADS_MAX 1024
#define STACK 262144
#define IDLE_NS 1000000000ULL
#define BUSY_NS 50000ULL       /* how long to look for the next message before sleeping, where that pays */
#define LEAST_BUSY_NS 4000ULL
#define STUCK_NS 200000000ULL  /* a leader that has been at one fault for so long should have handed over */
#define BAR_NS 2000000000ULL   /* how long the kernel may have no mapping for a bar */
#define BLIND_NS 1000000ULL    /* between two looks, where the kernel does not tell when there is something to see */
#define WAITERS 15             /* threads that are noted for one page; others hear by asking again */

typedef struct service service_t;

/* A service thread. */
struct pf_server {
  service_t *service;
  uint32_t number;       /* what `leader` is when it leads */
  uint8_t *page;         /* under the lock: what it serves; NULL: nothing */
  uint64_t since_ns;
  uint32_t tids[WAITERS + 1], tid_count;
  uint32_t noted;        /* messages about it that were read since */
  struct pf_server *next;
  uint64_t window_ns, slept_at; /* busy looking */
};
typedef struct pf_server server_t;

struct service {
  pf_own_t own;
  pf_lock_t lock;
  _Atomic uint32_t leader; /* futex; 0: nobody listens */
  uint32_t numbers;        /* under the lock, like the rest */
  server_t *servers;
  unsigned threads, idle;
};

static service_t services[SERVICES] = {{.own = PF_OWN_SERVED_ASYNC}, {.own = PF_OWN_SERVED_SYNC}};

static service_t *service_of(pf_own_t which) { return &services[which - PF_OWN_SERVED_ASYNC]; }

/* --- verdicts ------------------------------------------------------------------------------------------------------------ */

#define VERDICTS 256
#define VERDICT_NS 1000000000ULL
#define NOBODY 0 /* the thread of a verdict that is only there to lift the bar */

typedef struct {
  uint64_t region, page, at_ns; /* at_ns 0: free */
  int tid;
  pf_verdict_t verdict;
} kept_t;

static pf_lock_t verdict_lock;
static kept_t verdicts[VERDICTS];
static _Atomic unsigned verdict_count;

static void keep_verdict(const kept_t *kept) {
  size_t at = 0;
  pf_lock(&verdict_lock);
  for (size_t i = 0; i < VERDICTS && verdicts[at].at_ns != 0; i++) {
    at = verdicts[i].at_ns < verdicts[at].at_ns ? i : at; /* the oldest */
  }
  atomic_fetch_add(&verdict_count, verdicts[at].at_ns == 0);
  verdicts[at] = *kept;
  pf_unlock(&verdict_lock);
}

/* A verdict that is kept for a thread in a system call would never be found by that call, but by a later touch, which has nothing to do with it. */
static int whose(int tid) { return pf_thread_in_call(tid) ? NOBODY : tid; }

static bool take_verdict(uint64_t region, uint64_t page, int tid, pf_verdict_t *out) {
  bool found = false;
  if (atomic_load(&verdict_count) == 0) {
    return false;
  }
  pf_lock(&verdict_lock);
  for (size_t i = 0; i < VERDICTS && !found; i++) {
    found = verdicts[i].at_ns != 0 && verdicts[i].region == region && verdicts[i].page == page && verdicts[i].tid == tid;
    if (found) {
      *out = verdicts[i].verdict;
      verdicts[i].at_ns = 0;
      atomic_fetch_sub(&verdict_count, 1);
    }
  }
  pf_unlock(&verdict_lock);
  return found;
}

static bool is_failed(const pf_region_t *region, uint64_t page) { return (atomic_load(&region->states[page]) & (PF_STATE | PF_ZEROED)) == PF_FAILED; }

static bool is_present(const pf_region_t *region, uint64_t page) { return (atomic_load(&region->states[page]) & PF_STATE) == PF_PRESENT; }

bool pf_verdict_find(pf_region_t *region, uint64_t page, int tid, pf_verdict_t *out) {
  if (take_verdict(atomic_load(&region->id), page, tid, out) && (out->refused || !is_present(region, page))) {
    return true; /* else the page has come since */
  }
  *out = (pf_verdict_t){0};
  if (atomic_load(&region->phase) != PF_PHASE_OPEN) {
    out->why.code = PF_E_CLOSED;
    return true;
  }
  if (!is_failed(region, page)) {
    return false;
  }
  pf_page_why_failed(region, page, &out->why);
  return true;
}

void pf_bar_leave(pf_region_t *region, uint64_t page) {
  if (!pf_page_lift_bar(region, page)) {
    keep_verdict(&(kept_t){.region = atomic_load(&region->id), .page = page, .at_ns = pf_now_ns(), .tid = NOBODY});
  }
}

/* Bars of threads that did not ask: they were in system calls. */
static void expire_verdicts(void) {
  uint64_t now = pf_now_ns();
  for (size_t i = 0; atomic_load(&verdict_count) > 0 && i < VERDICTS; i++) {
    kept_t old = {0};
    pf_lock(&verdict_lock);
    if (verdicts[i].at_ns != 0 && verdicts[i].at_ns + VERDICT_NS < now) { /* one may be younger than `now` */
      old = verdicts[i];
      verdicts[i].at_ns = 0;
      atomic_fetch_sub(&verdict_count, 1);
    }
    pf_unlock(&verdict_lock);
    pf_region_t *region = old.at_ns == 0 ? NULL : pf_region_by_id(old.region);
    if (region != NULL) {
      if (atomic_load(&region->phase) == PF_PHASE_OPEN && !pf_page_lift_bar(region, old.page)) {
        keep_verdict(&old); /* not now */
      }
      pf_region_leave(region);
    }
  }
}

/* What a message asks for. */
typedef struct {
  struct pf_uffd_msg message;
  pf_region_t *region; /* entered; NULL: none of ours */
  bool mine;           /* nobody is at the page */
} request_t;

/* --- serving ------------------------------------------------------------------------------------------------------------- */

/* lock held. True: the page is ours to serve. False: somebody is at it, and will wake this thread too. */
static bool begin(server_t *self, uint8_t *page, uint32_t tid) {
  server_t *other = self->service->servers;
  while (other != NULL && other->page != page) {
    other = other->next;
  }
  if (other == NULL) {
    self->page = page;
    self->since_ns = pf_now_ns();
    self->tids[0] = tid;
    self->tid_count = 1;
    return true;
  }
  if (other->tid_count <= WAITERS && other->tids[0] != tid) {
    other->tids[other->tid_count++] = tid;
  }
  other->noted++;
  return false;
}

/* The page came after all, or may have, between the decision and the bar: whoever waited may be gone, and is not to find the verdict at a later touch. */
static bool came_after_all(const pf_region_t *region, const pf_fault_t *fault) {
  unsigned state = atomic_load(&region->states[fault->page]) & PF_STATE;
  return !fault->refused && fault->why.code != PF_E_CLOSED && state != PF_ABSENT && state != PF_LOADING && state != PF_FAILED;
}

static void refuse(server_t *self, pf_region_t *region, const pf_fault_t *fault) {
  kept_t kept = {.region = atomic_load(&region->id), .page = fault->page, .verdict = {fault->why, fault->refused}};
  uint64_t give_up = pf_now_ns() + BAR_NS;
  while (pf_page_bar(region, fault->page, fault->refused) != 0) { /* no mapping left */
    if (pf_now_ns() > give_up) {
      pf_report_unreadable(region, fault->page, fault->why, false);
      abort(); /* the thread can neither be given its page nor told that it cannot have it */
    }
    pf_about_to_block();
    pf_sleep_until(pf_now_ns() + 1000000ULL);
  }
  pf_lock(&self->service->lock);
  uint32_t tids[WAITERS + 1], count = self->tid_count;
  memcpy(tids, self->tids, sizeof tids);
  pf_unlock(&self->service->lock);
  if (came_after_all(region, fault)) { /* a thread that is still there meets the bar, and has a try of its own (signal.c) */
    pf_bar_leave(region, fault->page);
    return;
  }
  kept.at_ns = pf_now_ns();
  for (uint32_t i = 0; i < count; i++) {
    kept.tid = whose((int)tids[i]);
    keep_verdict(&kept);
  }
}

/* `page` is the first byte of a page of the region. */
static void serve(server_t *self, pf_thread_t *thread, pf_region_t *region, const struct pf_uffd_msg *message) {
  bool protected = message->flags & PF_UFFD_PAGEFAULT_FLAG_WP;
  pf_fault_t fault = {
      .page = (message->address - (uintptr_t)region->base) >> region->page_shift,
      .wait = {.write = region->writable && (message->flags & (PF_UFFD_PAGEFAULT_FLAG_WRITE | PF_UFFD_PAGEFAULT_FLAG_WP)), .tid = (int)message->thread},
  };
  if (protected && !region->writable) { /* sealed: memory that its owner has made writable */
    fault.refused = true;
    refuse(self, region, &fault);
    return;
  }
  if (pf_fault_answer(thread, region, &fault)) {
    pf_verdict_t old;
    if (take_verdict(atomic_load(&region->id), fault.page, fault.wait.tid, &old)) { /* one that it never heard: a signal made it ask again */
      pf_bar_leave(region, fault.page);
    }
    return;
  }
  refuse(self, region, &fault);
}

/* Whoever waits for it looks again. A message that is read while we wake is noted, not served: its thread may be on its way already, and to serve it then
 * would be to open a page for a write that has been made, and written out, long ago. So it is woken, too, and asks once more. */
static void end(server_t *self, size_t len) {
  service_t *service = self->service;
  for (bool done = false; !done;) {
    pf_lock(&service->lock);
    uint32_t noted = self->noted;
    pf_unlock(&service->lock);
    pf_own_uffd_wake(service->own, self->page, len);
    pf_lock(&service->lock);
    done = self->noted == noted;
    self->page = done ? NULL : self->page;
    pf_unlock(&service->lock);
  }
}

static void answer(server_t *self, pf_thread_t *thread, const request_t *request) {
  if (request->region == NULL) { /* unmapped meanwhile, or somebody else's by now */
    size_t page = pf_os_page_size();
    pf_own_uffd_wake(self->service->own, (uint8_t *)(uintptr_t)(request->message.address & ~(uint64_t)(page - 1)), page);
    return;
  }
  size_t len = pf_page_size(request->region);
  if (request->mine && thread == NULL) { /* a thousand threads have faults already: this one's thread asks again */
    pf_sleep_until(pf_now_ns() + 1000000ULL);
  } else if (request->mine) {
    serve(self, thread, request->region, &request->message);
  } else {
    atomic_fetch_add_explicit(&request->region->counters.waits, 1, memory_order_relaxed);
  }
  pf_region_leave(request->region); /* first: whoever goes on may find it closed, and wants it empty */
  if (request->mine) {
    end(self, len);
  }
}

/* --- leading ------------------------------------------------------------------------------------------------------------- */

static bool leads(const server_t *self) { return atomic_load_explicit(&self->service->leader, memory_order_relaxed) == self->number; }

static void *run(void *data);

/* lock held. */
static int start_thread(service_t *service) {
  int err = service->threads == THREADS_MAX ? -EAGAIN : pf_thread_start_detached(run, service, STACK);
  if (err == 0) {
    service->threads++;
  }
  return err;
}

/* Takes the lead from the thread of that number, if it has it, and finds another. False: there is none, and it keeps the lead. */
static bool pass_on(service_t *service, uint32_t number) {
  uint32_t leader = number;
  pf_lock(&service->lock);
  bool can = atomic_load(&service->leader) == number && (service->idle > 0 || start_thread(service) == 0);
  can = can && atomic_compare_exchange_strong(&service->leader, &leader, 0);
  pf_unlock(&service->lock);
  if (can) {
    pf_futex_wake_one(&service->leader);
  }
  return can;
}

void pf_about_to_block(void) {
  pf_thread_t *thread = pf_thread_find();
  if (thread != NULL && thread->server != NULL && leads(thread->server)) {
    pass_on(thread->server->service, thread->server->number);
  }
}

/* One idle thread less, unless it is the only one or about to be woken: somebody must be there to take over. */
static bool may_go(service_t *service) {
  pf_lock(&service->lock);
  bool may = service->idle > 1 && atomic_load(&service->leader) != 0;
  service->idle -= may;
  pf_unlock(&service->lock);
  return may;
}

/* Waits for the lead. False: there are others who wait for it, and nothing to do. */
static bool wait_for_lead(server_t *self) {
  service_t *service = self->service;
  pf_lock(&service->lock);
  service->idle++;
  pf_unlock(&service->lock);
  for (;;) {
    uint32_t seen = 0;
    if (atomic_compare_exchange_strong(&service->leader, &seen, self->number)) {
      break;
    }
    uint64_t until = pf_now_ns() + IDLE_NS;
    pf_futex_wait(&service->leader, seen, until);
    if (pf_now_ns() >= until && may_go(service)) {
      return false;
    }
  }
  pf_lock(&service->lock);
  service->idle--;
  pf_unlock(&service->lock);
  return true;
}

/* Reads a message, and decides in the same step who serves it: see end. False: there is none. */
static bool take_request(server_t *self, request_t *out) {
  service_t *service = self->service;
  *out = (request_t){0};
  pf_lock(&service->lock);
  bool got = pf_uffd_read(pf_own_uffd_descriptor(service->own), &out->message, sizeof out->message) == sizeof out->message;
#if defined(__SANITIZE_THREAD__)
  extern char pf__told; /* own_uffd.c */
  void __tsan_acquire(void *addr);
  __tsan_acquire(&pf__told);
#endif
  pf_region_t *region = got ? pf_region_at((uintptr_t)out->message.address) : NULL;
  if (region != NULL && region->served) {
    uint64_t within = (out->message.address - (uintptr_t)region->base) & (pf_page_size(region) - 1);
    out->region = region;
    out->mine = begin(self, (uint8_t *)(uintptr_t)(out->message.address - within), out->message.thread);
  } else if (region != NULL) {
    pf_region_leave(region);
  }
  pf_unlock(&service->lock);
  return got;
}

/* The next message. Looks for a while before it sleeps, as long as that pays: a message that came soon after we went to sleep would have been caught, so look for the
 * whole time again; each time that nothing came, for half as long. The thread that was just woken may be waiting for this very CPU, so it gets it. */
static void next_request(server_t *self, request_t *out) {
  struct pollfd readable = {.fd = pf_own_uffd_descriptor(self->service->own), .events = POLLIN};
  uint64_t until = self->window_ns == 0 ? 0 : pf_now_ns() + self->window_ns;
  while (!take_request(self, out)) {
    if (until != 0 && pf_now_ns() < until) {
      sched_yield();
      continue;
    }
    if (until != 0) {
      self->window_ns = self->window_ns / 2 < LEAST_BUSY_NS ? 0 : self->window_ns / 2;
      until = 0;
      continue;
    }
    self->slept_at = pf_now_ns();
    if (poll(&readable, 1, -1) < 0 && errno != EINTR) { /* EINVAL where RLIMIT_NOFILE is 0: looking again at once would take a CPU for itself */
      pf_sleep_until(pf_now_ns() + BLIND_NS);
    }
    if (pf_now_ns() - self->slept_at < 2 * BUSY_NS) {
      self->window_ns = BUSY_NS;
    }
  }
}

static void join_service(server_t *self) {
  service_t *service = self->service;
  pf_lock(&service->lock);
  self->number = ++service->numbers == 0 ? ++service->numbers : service->numbers;
  self->next = service->servers;
  service->servers = self;
  pf_unlock(&service->lock);
}

static void leave_service(server_t *self) {
  service_t *service = self->service;
  pf_lock(&service->lock);
  server_t **link = &service->servers;
  while (*link != self) {
    link = &(*link)->next;
  }
  *link = self->next;
  service->threads--;
  pf_unlock(&service->lock);
}

static void *run(void *data) {
  server_t self = {.service = data};
  prctl(PR_SET_NAME, "pagefault");
  join_service(&self);
  while (wait_for_lead(&self)) {
    do {
      request_t request;
      next_request(&self, &request);
      pf_thread_t *thread = pf_thread_enter();
      if (thread != NULL) {
        thread->server = &self;
      }
      answer(&self, thread, &request);
      if (thread != NULL) {
        thread->server = NULL;
        pf_thread_leave(thread);
      }
    } while (leads(&self));
  }
  leave_service(&self);
  return NULL;
}

/* --- from outside ---------------------------------------------------------------------------------------------------------- */

int pf_service_start(pf_own_t which) {
  service_t *service = service_of(which);
  sigset_t before;
  int err = pf_own_uffd_start(which);
  if (err != 0) {
    return err;
  }
  pf_mask_signals(&before);
  pf_lock(&service->lock);
  while (err == 0 && service->threads < 2) {
    err = start_thread(service);
  }
  err = service->threads > 0 ? 0 : err; /* with one alone, faults that take long hold up others */
  pf_unlock(&service->lock);
  pf_restore_signals(&before);
  return err;
}

void pf_service_look(void) {
  for (size_t i = 0; i < SERVICES; i++) {
    service_t *service = &services[i];
    uint32_t stuck = 0;
    pf_lock(&service->lock);
    for (server_t *server = service->servers; server != NULL; server = server->next) {
      if (server->page != NULL && leads(server) && pf_now_ns() - server->since_ns > STUCK_NS) {
        stuck = server->number;
      }
    }
    pf_unlock(&service->lock);
    if (stuck != 0) {
      pass_on(service, stuck);
    }
  }
  expire_verdicts();
}
