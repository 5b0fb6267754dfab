/*
 * Loads in the background: load() and pin() run on threads of our own, because libuv's pool may be full of calls that wait for somebody
 * else. Threads are made when there is work and go after a while without; they have every signal masked.
 */
#include "engine.h"

#include <errno.h>
#include <pthread.h>

#define THREADS_MAX 8
#define IDLE_NS 200000000ULL

static pf_lock_t lock;
static pf_job_t *first, **last = &first;
static _Atomic uint32_t work; /* futex: jobs ever submitted */
static unsigned idle, queued;
static _Atomic unsigned threads;

static pf_job_t *take(void) {
  pf_lock(&lock);
  pf_job_t *job = first;
  if (job != NULL) {
    queued--;
    first = job->next;
    if (first == NULL) {
      last = &first;
    }
  }
  pf_unlock(&lock);
  return job;
}

static void run(pf_job_t *job) {
  pf_region_t *region = job->region;
  uint64_t reported = pf_now_ns();
  for (uint64_t page = job->first; page < job->end; page++) {
    uint64_t left = job->end - page;
    pf_wait_t wait = {
        .deadline_ns = pf_now_ns() + region->timeout_ns,
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
    if (!pf_page_ensure(region, page, &wait, &job->why)) {
      return;
    }
    atomic_fetch_add(&job->pages_done, 1);
    if (job->progress != NULL && pf_now_ns() - reported > 50000000ULL) {
      reported = pf_now_ns();
      job->progress(job);
    }
  }
}

static void *serve(void *unused) {
  (void)unused;
  for (;;) {
    uint32_t seen = atomic_load(&work);
    pf_job_t *job = take();
    if (job != NULL) {
      run(job);
      if (job->pin && job->why.code == PF_OK && !pf_pages_keep_open(job->region, job->first, job->end)) {
        job->why = (pf_why_t){.code = PF_E_NO_MEMORY};
      }
      if (job->pin && job->why.code != PF_OK) {
        pf_pin_remove(job->region, job->first, job->end); /* all or nothing */
      }
      job->done(job);
      continue;
    }
    pf_lock(&lock);
    idle++;
    pf_unlock(&lock);
    pf_futex_wait(&work, seen, pf_now_ns() + IDLE_NS);
    pf_lock(&lock);
    idle--;
    bool leave = first == NULL && atomic_load(&work) == seen;
    if (leave) {
      atomic_fetch_sub(&threads, 1);
    }
    pf_unlock(&lock);
    if (leave) {
      return NULL;
    }
  }
}

static int start_thread(void) {
  sigset_t before;
  pthread_attr_t attr;
  pthread_t thread;
  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  pf_mask_signals(&before);
  int err = pthread_create(&thread, &attr, serve, NULL);
  pf_restore_signals(&before);
  pthread_attr_destroy(&attr);
  return -err;
}

/* lock held. */
static void push(pf_job_t *job) {
  job->next = NULL;
  *last = job;
  last = &job->next;
  queued++;
  atomic_fetch_add(&work, 1);
}

int pf_loader_submit(pf_job_t *job) {
  pf_lock(&lock);
  bool start = queued >= idle && atomic_load(&threads) < THREADS_MAX;
  if (start) {
    atomic_fetch_add(&threads, 1);
  } else {
    push(job); /* in one step with the look: a thread that is about to leave looks under the lock too */
  }
  pf_unlock(&lock);
  if (start) {
    int err = start_thread();
    pf_lock(&lock);
    if (err != 0 && atomic_fetch_sub(&threads, 1) == 1) {
      pf_unlock(&lock);
      return err;
    }
    push(job);
    pf_unlock(&lock);
  }
  pf_futex_wake_one(&work);
  return 0;
}

unsigned pf_loader_threads(void) { return atomic_load(&threads); }
