/*
 * Loads, flushes and transfers in the background, on threads of our own, because libuv's pool may be full of calls that wait for somebody else. Threads are made
 * when there is work and go after a while without; they have every signal masked. Transfers to and from descriptors have threads apart: they wait for whoever is
 * at the other end, and a flush must not wait for that.
 */
#include "thread.h"
#include "touched.h"

#define IDLE_NS 200000000ULL
#define PAGE_THREADS 8
#define DESCRIPTOR_THREADS 64

typedef struct {
  const unsigned most; /* threads */
  pf_lock_t lock;
  pf_job_t *first, **last;
  _Atomic uint32_t work; /* futex: jobs ever submitted */
  unsigned idle, queued;
  _Atomic unsigned threads;
} lane_t;

static lane_t pages = {.most = PAGE_THREADS, .last = &pages.first}, descriptors = {.most = DESCRIPTOR_THREADS, .last = &descriptors.first};
static _Atomic int tids[PAGE_THREADS + DESCRIPTOR_THREADS]; /* of the threads of both */

static lane_t *lane_of(const pf_job_t *job) {
  return job->kind == PF_JOB_WRITE_TO || job->kind == PF_JOB_READ_FROM ? &descriptors : &pages;
}

static pf_job_t *take(lane_t *lane) {
  pf_lock(&lane->lock);
  pf_job_t *job = lane->first;
  if (job != NULL) {
    lane->queued--;
    lane->first = job->next;
    if (lane->first == NULL) {
      lane->last = &lane->first;
    }
  }
  pf_unlock(&lane->lock);
  return job;
}

/* Pages that were brought together with one before them cost no look at the clock. */
static void load(pf_job_t *job) {
  pf_region_t *region = job->region;
  uint64_t now = pf_now_ns(), reported = now;
  for (uint64_t page = job->first; page < job->end; page++) {
    uint64_t left = job->end - page;
    bool present = (atomic_load(&region->states[page]) & PF_STATE) == PF_PRESENT;
    now = present ? now : pf_now_ns();
    pf_wait_t wait = {
        .deadline_ns = now + region->timeout_ns,
        .cancel = &job->cancel,
        .heal = true,
        .background = true,
        .window = left < region->window_max ? (uint32_t)left : region->window_max,
    };
    job->failed_page = page;
    if (atomic_load(&job->cancel) != 0) {
      job->why = (pf_why_t){.code = PF_E_ABORTED};
      return;
    }
    if (!pf_page_ensure_for_call(region, page, &wait, &job->why)) {
      return;
    }
    atomic_fetch_add(&job->pages_done, 1);
    if (job->progress != NULL && now - reported > 50000000ULL) {
      reported = now;
      job->progress(job);
    }
  }
}

/* What a pin that failed has pinned is let go: all or nothing. */
static void end_pin(pf_job_t *job) {
  if (job->kind == PF_JOB_PIN && job->why.code != PF_OK) {
    pf_pin_remove(job->region, job->first, job->end);
  }
}

static void run(pf_job_t *job) {
  if (job->kind == PF_JOB_FLUSH) {
    pf_flush_run(job);
    return;
  }
  if (job->kind == PF_JOB_REPLAY) {
    pf_replay_run(job);
    return;
  }
  if (job->kind != PF_JOB_LOAD && job->kind != PF_JOB_PIN) {
    pf_transfer_run(job);
    return;
  }
  load(job);
  if (job->kind == PF_JOB_PIN && job->why.code == PF_OK && !pf_pages_keep_open(job->region, job->first, job->end)) {
    job->why = (pf_why_t){.code = PF_E_NO_MEMORY};
  }
  end_pin(job);
}

bool pf_loader_is(int tid) {
  bool found = false;
  for (size_t i = 0; !found && i < PAGE_THREADS + DESCRIPTOR_THREADS; i++) {
    found = atomic_load(&tids[i]) == tid;
  }
  return found;
}

/* Enters the thread's number in the list, or takes it off. */
static void enlist(int from, int to) {
  for (size_t i = 0; i < PAGE_THREADS + DESCRIPTOR_THREADS; i++) {
    int seen = from;
    if (atomic_compare_exchange_strong(&tids[i], &seen, to)) {
      return;
    }
  }
}

static void *serve(void *data) {
  lane_t *lane = data;
  enlist(0, pf_thread_tid());
  for (;;) {
    uint32_t seen = atomic_load(&lane->work);
    pf_job_t *job = take(lane);
    if (job != NULL) {
      run(job);
      job->done(job);
      continue;
    }
    pf_lock(&lane->lock);
    lane->idle++;
    pf_unlock(&lane->lock);
    pf_futex_wait(&lane->work, seen, pf_now_ns() + IDLE_NS);
    pf_lock(&lane->lock);
    lane->idle--;
    bool leave = lane->first == NULL && atomic_load(&lane->work) == seen;
    if (leave) {
      enlist(pf_thread_tid(), 0);
      atomic_fetch_sub(&lane->threads, 1);
    }
    pf_unlock(&lane->lock);
    if (leave) {
      return NULL;
    }
  }
}

/* The lane's lock held. */
static void push(lane_t *lane, pf_job_t *job) {
  job->next = NULL;
  *lane->last = job;
  lane->last = &job->next;
  lane->queued++;
  atomic_fetch_add(&lane->work, 1);
}

/* The lane's lock held. All that is queued, which is nobody's from here on. */
static pf_job_t *take_all(lane_t *lane) {
  pf_job_t *jobs = lane->first;
  lane->first = NULL;
  lane->last = &lane->first;
  lane->queued = 0;
  return jobs;
}

/* A job that was queued, and is not run. */
static void end_unrun(pf_job_t *job, pf_code_t code) {
  sigset_t before;
  pf_mask_signals(&before);
  job->why = (pf_why_t){.code = code};
  job->failed_page = job->first;
  end_pin(job);
  job->done(job);
  pf_restore_signals(&before);
}

/* The lane has no thread, and can have none: these end as failed, but for `own`, of which nobody has been told yet. True if it is among them. */
static bool fail_all(pf_job_t *jobs, const pf_job_t *own) {
  bool found = false;
  for (pf_job_t *job = jobs, *next; job != NULL; job = next) {
    next = job->next;
    if (job == own) {
      found = true;
      continue;
    }
    end_unrun(job, PF_E_NO_MEMORY);
  }
  return found;
}

/* The thread that was to be started for it cannot be had. 0: another one has taken it, or will. */
static int without_thread(lane_t *lane, const pf_job_t *job, int err) {
  pf_lock(&lane->lock);
  bool last = atomic_fetch_sub(&lane->threads, 1) == 1; /* those that are being started count: if they fail, too, this is done there */
  pf_job_t *left = last ? take_all(lane) : NULL;
  pf_unlock(&lane->lock);
  return fail_all(left, job) ? err : 0;
}

int pf_loader_submit(pf_job_t *job) {
  lane_t *lane = lane_of(job);
  pf_lock(&lane->lock);
  bool start = lane->queued >= lane->idle && atomic_load(&lane->threads) < lane->most;
  atomic_fetch_add(&lane->threads, start ? 1 : 0);
  push(lane, job); /* under the same lock as the look, and before a thread is started: one that has found nothing for a while leaves, and looks under the lock too */
  pf_unlock(&lane->lock);
  int err = start ? pf_thread_start_detached(serve, lane, 0) : 0;
  pf_futex_wake_one(&lane->work);
  return err == 0 ? 0 : without_thread(lane, job, err);
}

bool pf_loader_withdraw(pf_job_t *job) {
  lane_t *lane = lane_of(job);
  bool found = false;
  pf_lock(&lane->lock);
  for (pf_job_t **link = &lane->first; !found && *link != NULL; link = found ? link : &(*link)->next) {
    found = *link == job;
    if (found) {
      *link = job->next;
      lane->last = *link == NULL ? link : lane->last;
      lane->queued--;
    }
  }
  pf_unlock(&lane->lock);
  return found;
}

void pf_loader_abort(pf_job_t *job) { end_unrun(job, PF_E_ABORTED); }

unsigned pf_loader_threads(void) { return atomic_load(&pages.threads) + atomic_load(&descriptors.threads); }
