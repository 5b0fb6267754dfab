/* The default action of a fault's signal, as if we had never been there. In a handler; nothing here allocates. */
#ifndef PF_CRASH_H
#define PF_CRASH_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* Ends the process once the handler returns: at the instruction that faulted, or where a signal that was sent arrived. `ours` (if not NULL) is
 * installed until other threads that fault wait for the end. */
void pf_crash(int number, siginfo_t *info, const struct sigaction *ours);
/* At the beginning of a handler: while another thread is about to end the process, waits for that, for a second at most. */
void pf_crash_wait(void);
/* True: handlers are to stay as they are. */
bool pf_crash_begun(void);
/* Before a handler of somebody else's is called that may put the default action in place by itself: if compiled code has faulted at this instruction (and not
 * WebAssembly's, whose faults are no crashes), others that fault wait from here on, for a moment at most. False: not so. */
bool pf_crash_expected(uintptr_t instruction);
/* It was no crash: they go on. */
void pf_crash_averted(void);
/* After a handler that has put the default action in place and raised the signal: the signal is taken back, so that the fault itself comes again, with its
 * address. The default action may not be in place any more: somebody has looked after the handlers since. False: it has done no such thing. */
bool pf_crash_given_up(int number);

#endif
