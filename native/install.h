/* Our signal handlers in their place: install.c. What they do with a signal of ours: signal.c. */
#ifndef PF_INSTALL_H
#define PF_INSTALL_H

#include "chain.h"

/* The first `count` of the handlers are in place, and seen to from here on. 0 or -errno. Not in a handler. */
int pf_install(unsigned count);
/* What our handler is installed with. False: that of another copy serves us. In a handler, too. */
bool pf_install_action(unsigned which, struct sigaction *out);

/* signal.c: what handlers need. Again: nothing. 0 or -errno. */
int pf_signal_prepare(void);
/* signal.c, in the handler: true when it was ours, and the thread may go on (or is to end by the default action). */
bool pf_signal_handle(unsigned which, siginfo_t *info, void *context);
/* The same: "a read", "a write", "a jump" or "an access". */
const char *pf_signal_access(unsigned which, const ucontext_t *uc);

#endif
