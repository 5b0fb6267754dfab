/* Node-API: load and pin, on threads of our own, answered on the caller's loop. An open job keeps that loop alive. */
#include "binding.h"

#include <errno.h>
#include <stdlib.h>

typedef struct {
  pf_job_t job; /* first: the engine knows only this */
  uint64_t number;
  unsigned page_shift;
  pf_failure_t failure; /* of a job that failed: known before the region is left, which may end with that */
  napi_ref done, progress;
  napi_threadsafe_function channel;
  _Atomic uint32_t finished; /* the job is over and its result can be read */
  _Atomic uint32_t telling;  /* a message is under way */
  pf_lock_t hand_over;
  _Atomic uint32_t channel_gone;
  _Atomic uint32_t left;     /* who is done with this struct: the loader, the channel. The second frees it */
} load_t;

/* Jobs by number, for cancelling: numbers are slot and generation, as everywhere. */
#define JOBS 4096
static pf_lock_t jobs_lock;
static load_t *jobs[JOBS];
static uint64_t next_job = 1;

static bool list_job(load_t *load) {
  bool listed = false;
  pf_lock(&jobs_lock);
  for (size_t tries = 0; !listed && tries < JOBS; tries++) {
    uint64_t number = next_job++;
    if (jobs[number % JOBS] == NULL) {
      jobs[number % JOBS] = load;
      load->number = number;
      listed = true;
    }
  }
  pf_unlock(&jobs_lock);
  return listed;
}

static void unlist_job(load_t *load) {
  pf_lock(&jobs_lock);
  jobs[load->number % JOBS] = NULL;
  pf_unlock(&jobs_lock);
}

static void leave(load_t *load) {
  if (atomic_fetch_add(&load->left, 1) == 1) {
    unlist_job(load);
    free(load);
  }
}

/* A message to the loop. False: the environment is ending, and the channel must not be used again. */
static bool tell(load_t *load) { return napi_call_threadsafe_function(load->channel, NULL, napi_tsfn_nonblocking) == napi_ok; }

static void on_progress(pf_job_t *job) {
  load_t *load = (load_t *)job;
  uint32_t none = 0;
  if (atomic_load(&load->channel_gone) == 0 && atomic_compare_exchange_strong(&load->telling, &none, 1)) { /* merged: one at a time */
    tell(load);
  }
}

/* The loader's last touch of the job. */
static void on_done(pf_job_t *job) {
  load_t *load = (load_t *)job;
  if (job->why.code != PF_OK) {
    pf_failure_of(job->region, job->failed_page, job->why, &load->failure);
  }
  pf_region_leave(job->region);
  pf_region_reap(); /* closed meanwhile, it must not keep its pages until the loop turns: the loop's thread may wait for them */
  pf_lock(&load->hand_over); /* the channel's end waits for us, or we see that it has come */
  if (atomic_load(&load->channel_gone) == 0) {
    napi_threadsafe_function channel = load->channel;
    atomic_store(&load->finished, 1);
    if (tell(load)) {
      napi_release_threadsafe_function(channel, napi_tsfn_release);
    }
  }
  pf_unlock(&load->hand_over);
  leave(load);
}

static void call_progress(napi_env env, load_t *load, napi_value self) {
  napi_value callback = NULL;
  if (load->progress != NULL && napi_get_reference_value(env, load->progress, &callback) == napi_ok && callback != NULL) {
    napi_value bytes = pf_from_number(env, (double)(atomic_load(&load->job.pages_done) << load->page_shift));
    napi_call_function(env, self, callback, 1, &bytes, NULL);
  }
}

static void call_done(napi_env env, load_t *load, napi_value self) {
  napi_value callback = NULL, failure = NULL;
  if (load->done == NULL || napi_get_reference_value(env, load->done, &callback) != napi_ok || callback == NULL) {
    return;
  }
  napi_get_null(env, &failure);
  if (load->job.why.code != PF_OK) {
    failure = pf_failure_object(env, &load->failure);
  }
  napi_delete_reference(env, load->done);
  load->done = NULL;
  napi_call_function(env, self, callback, 1, &failure, NULL);
}

static void on_loop(napi_env env, napi_value unused, void *context, void *data) {
  (void)unused;
  (void)data;
  if (env == NULL) {
    return; /* the environment is ending, and the struct may be gone */
  }
  load_t *load = context;
  atomic_store(&load->telling, 0);
  napi_value self = pf_undefined(env);
  call_progress(env, load, self);
  if (atomic_load(&load->finished)) {
    call_done(env, load, self);
  }
}

/* The channel is gone: the job is over, or its environment is. Then the loader may still be at work; it finds out under the lock. */
static void on_channel_gone(napi_env env, void *data, void *hint) {
  load_t *load = data;
  (void)hint;
  atomic_store(&load->job.cancel, 1);
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&load->hand_over);
  atomic_store(&load->channel_gone, 1);
  pf_unlock(&load->hand_over);
  pf_restore_signals(&before);
  if (load->done != NULL) {
    napi_delete_reference(env, load->done);
  }
  if (load->progress != NULL) {
    napi_delete_reference(env, load->progress);
  }
  leave(load);
}

static bool make_channel(napi_env env, load_t *load) {
  return napi_create_threadsafe_function(env, NULL, NULL, pf_from_text(env, "pagefault load"), 0, 1, load, on_channel_gone, load, on_loop,
                                         &load->channel) == napi_ok;
}

static load_t *make_load(napi_env env, pf_region_t *region, uint64_t first, uint64_t end, bool pin, napi_value done, napi_value progress) {
  load_t *load = calloc(1, sizeof *load);
  if (load == NULL || !list_job(load)) {
    free(load);
    pf_throw(env, PF_E_SYSTEM, ENOMEM, NULL, "too many loads at once");
    return NULL;
  }
  load->page_shift = region->page_shift;
  load->job = (pf_job_t){.region = region, .first = first, .end = end, .pin = pin, .done = on_done};
  if (!make_channel(env, load)) {
    unlist_job(load);
    free(load);
    pf_throw(env, PF_E_SYSTEM, 0, NULL, "the runtime has no room for a load");
    return NULL;
  }
  napi_create_reference(env, done, 1, &load->done);
  if (pf_is_function(env, progress)) {
    napi_create_reference(env, progress, 1, &load->progress);
    load->job.progress = on_progress;
  }
  return load;
}

static napi_value throw_pin(napi_env env, int err) {
  if (err == -EDQUOT) {
    return pf_throw(env, PF_E_BUDGET, 0, NULL, "pinning this much would leave the budget no room for other pages (four are kept free)");
  }
  return pf_throw(env, PF_E_NO_MEMORY, -err, "mmap", "the pages cannot be pinned");
}

static napi_value region_load(napi_env env, napi_callback_info info) {
  napi_value args[6];
  pf_args(env, info, 6, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  uint64_t offset = pf_number(env, args[1]), len = pf_number(env, args[2]);
  bool pin = pf_boolean(env, args[3]);
  if (len == 0 || offset >= region->byte_length || len > region->byte_length - offset || !pf_is_function(env, args[4])) {
    pf_region_leave(region);
    napi_throw_range_error(env, NULL, "regionLoad: outside the region");
    return NULL;
  }
  uint64_t first = offset >> region->page_shift, end = (offset + len + pf_page_size(region) - 1) >> region->page_shift;
  int err = 0;
  if (pin) {
    MASKED(err = pf_pin_add(region, first, end)); /* before loading, so that nothing loaded can go again */
  }
  if (err != 0) {
    pf_region_leave(region);
    return throw_pin(env, err);
  }
  load_t *load = make_load(env, region, first, end, pin, args[4], args[5]);
  uint64_t number = load == NULL ? 0 : load->number;
  if (load != NULL) {
    err = pf_loader_submit(&load->job);
  }
  if ((load == NULL || err != 0) && pin) {
    MASKED(pf_pin_remove(region, first, end));
  }
  if (load == NULL) {
    pf_region_leave(region);
    return NULL;
  }
  if (err != 0) {
    pf_region_leave(region);
    leave(load); /* for the loader, which never saw it; the channel's end does the rest */
    napi_release_threadsafe_function(load->channel, napi_tsfn_abort);
    return pf_throw(env, PF_E_SYSTEM, -err, "pthread_create", "no thread can be had for loading");
  }
  return pf_from_number(env, (double)number);
}

static napi_value job_cancel(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  uint64_t number = pf_number(env, args[0]);
  pf_lock(&jobs_lock);
  load_t *load = jobs[number % JOBS];
  if (load != NULL && load->number == number) {
    atomic_store(&load->job.cancel, 1);
  }
  pf_unlock(&jobs_lock);
  return NULL;
}

static napi_value region_unpin(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  pf_region_t *region = pf_region_by_id(pf_number(env, args[0]));
  if (region == NULL) {
    return NULL; /* closed and gone, its pins with it */
  }
  uint64_t offset = pf_number(env, args[1]), len = pf_number(env, args[2]);
  if (len > 0 && offset < region->byte_length && len <= region->byte_length - offset && atomic_load(&region->phase) == PF_PHASE_OPEN) {
    uint64_t first = offset >> region->page_shift, end = (offset + len + pf_page_size(region) - 1) >> region->page_shift;
    MASKED(pf_pin_remove(region, first, end));
  }
  pf_region_leave(region);
  return NULL;
}

const pf_export_t pf_load_exports[] = {
    {"regionLoad", region_load},
    {"jobCancel", job_cancel},
    {"regionUnpin", region_unpin},
    {NULL, NULL},
};
