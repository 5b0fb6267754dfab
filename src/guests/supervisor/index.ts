/** The process that keeps guests over the death of the daemon that serves them. */

export { type Orphan, Supervisor, type SupervisorEvents, type SupervisorOptions } from './client.js';
export { type Described, describeGuest, readDescription } from './description.js';
export { SupervisedGuests, type SupervisedHost, type TakenOver } from './guests.js';
export { type GuestDescriptors, HeldGuest } from './keep.js';
