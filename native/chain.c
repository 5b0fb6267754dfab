/*
 * The chain of other people's handlers: see chain.h. pf_chain_push and pf_chain_remove run under the lock of install.c; the rest runs in our handlers, on any
 * thread, without a lock: an entry is never changed once a chain has it, and a chain is one word.
 *
 *   kernel ──▶ ours ──▶ the newest ──▶ (hands on) ours ──▶ the next ──▶ … ──▶ the first ──▶ default action
 *
 * Which of them had their turn is noted in a trail of records on the stack that begins in uc_link, a member of the context that the kernel neither reads
 * nor leaves set: it reaches us again through a handler that passes its arguments on, and a handler that never returns (siglongjmp) leaves nothing
 * behind. Several copies of this library can each have records in one trail.
 */
#include "chain.h"
#include "crash.h"
#include "install.h"
#include "library.h"
#include "report.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KNOWN 64   /* a handler that is put over ours again and again is one of them */
#define LEVELS 8   /* bytes of a chain's word, from the first handler up: number of the entry + 1, 0 for none */
#define TRAIL_MAGIC 0x706167656661756cULL

typedef struct trail {
  uint64_t magic;
  const void *whose; /* chain of a copy */
  uint64_t rest;     /* who has not had his turn */
  const struct trail *next;
} trail_t;

static struct sigaction known[KNOWN];
static const void *libraries[KNOWN]; /* that they are in */
static uint8_t codes[KNOWN][32]; /* how they begin: another library may come to the same place */
static size_t known_count, recycled; /* by the pushing thread */
static _Atomic uint64_t chains[PF_SIGNALS];
static _Atomic uint64_t forwarded;

uint64_t pf_chain_forwarded(void) { return atomic_load(&forwarded); }

/* --- the default action ---------------------------------------------------------------------------------------------------- */

void pf_chain_default(unsigned which, siginfo_t *info) {
  struct sigaction ours;
  pf_crash(pf_number_of(which), info, pf_install_action(which, &ours) ? &ours : NULL); /* not: another copy's serve us */
}

static uintptr_t instruction_of(const ucontext_t *uc) {
#if defined(__x86_64__)
  return (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
  return (uintptr_t)uc->uc_mcontext.pc;
#else
  (void)uc;
  return 0;
#endif
}

/* Names the segment next to a crash that is none of ours. A forked child has no table of them. */
static void report_crash(unsigned which, const siginfo_t *info, const ucontext_t *uc) {
  bool has_address = which != PF_ON_TRAP && info->si_code > 0 && info->si_code != SI_KERNEL;
  if (has_address && !pf_forked()) {
    pf_crash_t crash = {pf_number_of(which), (uintptr_t)info->si_addr, instruction_of(uc), pf_signal_access(which, uc)};
    pf_report_crash(&crash);
  }
}

/* --- words ----------------------------------------------------------------------------------------------------------------- */

static unsigned height_of(uint64_t chain) { return chain == 0 ? 0 : 8 - (unsigned)__builtin_clzll(chain) / 8; }

static unsigned entry_at(uint64_t chain, unsigned level) { return (unsigned)(chain >> (8 * level) & 255); }

static uint64_t below(uint64_t chain, unsigned level) { return level >= LEVELS ? chain : chain & (((uint64_t)1 << (8 * level)) - 1); }

/* Without the entry, wherever it is. */
static uint64_t without(uint64_t chain, unsigned entry) {
  for (unsigned level = 0; level < height_of(chain); level++) {
    if (entry_at(chain, level) == entry) {
      uint64_t above = level + 1 >= LEVELS ? 0 : chain >> (8 * (level + 1)) << (8 * level);
      return below(chain, level) | above;
    }
  }
  return chain;
}

static bool has(uint64_t chain, unsigned entry) { return without(chain, entry) != chain; }

static uint64_t with(uint64_t chain, unsigned entry) {
  unsigned height = height_of(chain);
  if (height == LEVELS) { /* the oldest of those that were put over ours is forgotten */
    chain = without(chain, entry_at(chain, 1));
    height--;
  }
  return chain | (uint64_t)entry << (8 * height);
}

/* --- entries --------------------------------------------------------------------------------------------------------------- */

static bool is_same(const struct sigaction *one, const struct sigaction *other) {
  if (one->sa_flags != other->sa_flags || one->sa_sigaction != other->sa_sigaction) {
    return false;
  }
  for (int number = 1; number < NSIG; number++) {
    if (sigismember(&one->sa_mask, number) != sigismember(&other->sa_mask, number)) {
      return false;
    }
  }
  return true;
}

static uintptr_t code_of(const struct sigaction *action) {
  uintptr_t code;
  memcpy(&code, &action->sa_sigaction, sizeof code);
  return code;
}

/* Where it begins; NULL: none, or it cannot be known here. */
static const void *library_of(uintptr_t code) {
  pf_library_t library;
  return pf_library_at(code, &library) == PF_LIBRARY_FOUND ? library.start : NULL;
}

/* As much of it as lies in one page. */
static size_t code_length(uintptr_t code) {
  size_t left = pf_os_page_size() - code % pf_os_page_size();
  return left < sizeof codes[0] ? left : sizeof codes[0];
}

/* All that is known of code that is in no library. */
static bool is_mapped(uintptr_t code) {
  unsigned char resident;
  void *page = (void *)(code & ~(uintptr_t)(pf_os_page_size() - 1));
  return mincore(page, 1, &resident) == 0 || errno != ENOMEM;
}

static unsigned find(const struct sigaction *action) {
  for (size_t i = 0; i < known_count; i++) {
    if (is_same(&known[i], action)) {
      return (unsigned)i + 1;
    }
  }
  return 0;
}

static bool is_in_use(unsigned entry) {
  for (unsigned which = 0; which < PF_SIGNALS; which++) {
    if (has(atomic_load(&chains[which]), entry)) {
      return true;
    }
  }
  return false;
}

/* When all are taken: the one that left its chain longest ago, more or less. No thread still reads that. */
static unsigned take_entry(const struct sigaction *action) {
  size_t at = known_count;
  if (known_count < KNOWN) {
    known_count++;
  } else {
    do {
      at = recycled++ % KNOWN;
    } while (is_in_use((unsigned)at + 1));
  }
  known[at] = *action;
  libraries[at] = library_of(code_of(action));
  memset(codes[at], 0, sizeof codes[at]);
  if (libraries[at] != NULL) {
    memcpy(codes[at], (const void *)code_of(action), code_length(code_of(action)));
  }
  return (unsigned)at + 1;
}

static bool is_default(const struct sigaction *action) { return !(action->sa_flags & SA_SIGINFO) && action->sa_handler == SIG_DFL; }

static bool is_ignored(const struct sigaction *action) { return !(action->sa_flags & SA_SIGINFO) && action->sa_handler == SIG_IGN; }

void pf_chain_push(unsigned which, const struct sigaction *action) {
  uint64_t chain, wanted;
  unsigned entry = find(action);
  if (!is_default(action) && !is_ignored(action) && !is_mapped(code_of(action))) {
    return; /* gone before we saw it; who knows what comes to be there */
  }
  do {
    chain = atomic_load(&chains[which]);
    bool is_first = entry != 0 && entry == entry_at(chain, 0);
    if (chain != 0 && (is_first || is_default(action))) {
      wanted = below(chain, 1); /* somebody took off what had been put over ours, and took us for a part of it */
    } else {
      entry = entry != 0 ? entry : take_entry(action);
      wanted = with(without(chain, entry), entry);
    }
  } while (!atomic_compare_exchange_strong(&chains[which], &chain, wanted));
}

/* False: it is in the chain no longer. */
static bool drop(unsigned which, unsigned entry) {
  uint64_t chain = atomic_load(&chains[which]);
  while (has(chain, entry)) {
    if (atomic_compare_exchange_weak(&chains[which], &chain, without(chain, entry))) {
      return true;
    }
  }
  return false;
}

void pf_chain_remove(unsigned which, const struct sigaction *action) {
  unsigned entry = find(action);
  if (entry != 0) {
    drop(which, entry);
  }
}

/* --- forwarding ------------------------------------------------------------------------------------------------------------ */

/* False: the library that it was in has been unloaded, and did not take it off. */
static bool is_loaded(unsigned entry) {
  uintptr_t code = code_of(&known[entry - 1]);
  if (libraries[entry - 1] == NULL) {
    return is_mapped(code);
  }
  return library_of(code) == libraries[entry - 1] && memcmp(codes[entry - 1], (const void *)code, code_length(code)) == 0;
}

/* As the kernel would have called it: with the mask it asked for. Only the stack may be another one: ours is the alternate one where there is one. */
static void call(const struct sigaction *action, int number, siginfo_t *info, void *context) {
  sigset_t mask = ((ucontext_t *)context)->uc_sigmask;
  for (int other = 1; other < NSIG; other++) {
    if (sigismember(&action->sa_mask, other) == 1) {
      sigaddset(&mask, other);
    }
  }
  if (!(action->sa_flags & SA_NODEFER)) {
    sigaddset(&mask, number);
  }
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  if (action->sa_flags & SA_SIGINFO) {
    action->sa_sigaction(number, info, context);
  } else {
    action->sa_handler(number);
  }
}

/*
 * A handler that is told only the number cannot do anything about one fault in particular. When it returned and the same instruction faults at the same address
 * again and again, it is passed over: otherwise process.on('SIGSEGV') would make every crash an endless loop. Two threads that share a slot forget each other.
 */
#define SLOTS 64
#define PATIENCE 3
#define REPEAT_NS 100000000ULL

static struct {
  _Atomic uintptr_t thread, instruction, addr;
  _Atomic uint64_t seen_at;
  _Atomic uint32_t times;
} faults[SLOTS];

static size_t slot_of(uintptr_t thread) { return (size_t)((thread >> 12) * 0x9E3779B97F4A7C15ULL >> 58); }

static bool is_repeated(const siginfo_t *info, const ucontext_t *uc) {
  uintptr_t thread = (uintptr_t)pthread_self();
  size_t slot = slot_of(thread);
  return atomic_load(&faults[slot].thread) == thread && atomic_load(&faults[slot].instruction) == instruction_of(uc) &&
         atomic_load(&faults[slot].addr) == (uintptr_t)info->si_addr && pf_now_ns() - atomic_load(&faults[slot].seen_at) < REPEAT_NS;
}

static bool is_no_use(const struct sigaction *action, const siginfo_t *info, const ucontext_t *uc) {
  return !(action->sa_flags & SA_SIGINFO) && info->si_code > 0 && is_repeated(info, uc) &&
         atomic_load(&faults[slot_of((uintptr_t)pthread_self())].times) >= PATIENCE;
}

/* The handler returned: one that leaves by siglongjmp is of use each time. */
static void note_return(const siginfo_t *info, const ucontext_t *uc) {
  uintptr_t thread = (uintptr_t)pthread_self();
  size_t slot = slot_of(thread);
  uint32_t times = is_repeated(info, uc) ? atomic_load(&faults[slot].times) + 1 : 1;
  atomic_store(&faults[slot].thread, thread);
  atomic_store(&faults[slot].instruction, instruction_of(uc));
  atomic_store(&faults[slot].addr, (uintptr_t)info->si_addr);
  atomic_store(&faults[slot].seen_at, pf_now_ns());
  atomic_store(&faults[slot].times, times);
}

static const trail_t *own_trail(unsigned which, const ucontext_t *uc) {
  const trail_t *at = (const trail_t *)(const void *)uc->uc_link;
  while (at != NULL && (uintptr_t)at % _Alignof(trail_t) == 0 && at->magic == TRAIL_MAGIC) {
    if (at->whose == &chains[which]) {
      return at;
    }
    at = at->next;
  }
  return NULL;
}

/* Who is asked next, at which level; NULL: nobody is left. `rest` is what remains below. */
static const struct sigaction *next_of(unsigned which, uint64_t *rest, const siginfo_t *info, const ucontext_t *uc) {
  while (*rest != 0) {
    unsigned level = height_of(*rest) - 1, entry = entry_at(*rest, level);
    const struct sigaction *action = &known[entry - 1];
    *rest = below(*rest, level);
    if (is_default(action)) {
      return NULL;
    }
    if (is_ignored(action)) {
      if (info->si_code <= 0) {
        return action;
      }
      continue; /* an ignored fault is not ignored by the kernel either */
    }
    bool once = (action->sa_flags & (int)SA_RESETHAND) != 0;
    if (!is_loaded(entry) || is_no_use(action, info, uc) || (once && !drop(which, entry))) { /* of threads that crash at once, one has it */
      continue;
    }
    return action;
  }
  return NULL;
}

/* True: it returned, and the thread goes on. */
static bool ask(unsigned which, const struct sigaction *action, uint64_t rest, siginfo_t *info, ucontext_t *uc) {
  struct ucontext_t *link = uc->uc_link;
  trail_t trail = {.magic = TRAIL_MAGIC, .whose = &chains[which], .rest = rest, .next = (const trail_t *)(const void *)link};
  bool is_fault = info->si_code > 0 && which != PF_ON_TRAP;
  bool expected = is_fault && which == PF_ON_SEGV && pf_region_any_by_segv() && pf_crash_expected(instruction_of(uc));
  uc->uc_link = (struct ucontext_t *)(void *)&trail;
  call(action, pf_number_of(which), info, uc);
  uc->uc_link = link;
  if (is_fault && pf_crash_given_up(pf_number_of(which))) { /* as Node's does that looks for WebAssembly's faults */
    return false;
  }
  if (expected) {
    pf_crash_averted();
  }
  if (!(action->sa_flags & SA_SIGINFO)) {
    note_return(info, uc);
  }
  return true;
}

void pf_chain_forward(unsigned which, siginfo_t *info, ucontext_t *uc) {
  const trail_t *before = own_trail(which, uc);
  uint64_t rest = before != NULL ? before->rest : atomic_load(&chains[which]);
  if (before == NULL) {
    atomic_fetch_add_explicit(&forwarded, 1, memory_order_relaxed);
  }
  const struct sigaction *action = next_of(which, &rest, info, uc);
  if (action != NULL && (is_ignored(action) || ask(which, action, rest, info, uc))) {
    return;
  }
  report_crash(which, info, uc);
  pf_chain_default(which, info);
}
