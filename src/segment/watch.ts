/**
 * What goes on while a thread has segments open: once a second, or more often where a segment wants that, by a timer that does not keep the process alive, failures, late pages
 * and lost signal handlers become events, and stores of segments that ended elsewhere are closed. One a thread.
 */

import { getEventListeners } from 'node:events';
import { isMainThread } from 'node:worker_threads';
import { native } from '../native/load.js';
import { HandlerLostEvent, PageErrorEvent, StallEvent } from './events.js';
import { failureError, type Region } from './region.js';
import { closeCollected, reportAtExit } from './unflushed.js';

/** At most this; less where a segment anywhere in the process has a smaller `pollIntervalMs`. */
const INTERVAL_MS = 1000;

const EVENTS = ['pageerror', 'stall', 'handlerlost'];

/** A region that this thread no longer holds, but whose store it still has open. */
interface Lingering {
  id: number;
  ended: () => Promise<void>;
}

interface Watched {
  region: Region;
  target: WeakRef<EventTarget>;
  /** Set while somebody listens: who waits for an event may have nothing else that holds the segment, and would never go on. */
  kept: EventTarget | undefined;
  /** Serials of what was told last. */
  failures: number;
  stalls: number;
}

/** What `process.exit` calls in the end, with the code. */
interface Exiting {
  reallyExit?: ((code?: number) => void) | undefined;
}

const watched = new Map<Region, Watched>();
const lingering = new Set<Lingering>();
let timer: NodeJS.Timeout | undefined;
/** What the timer is set to. */
let interval = INTERVAL_MS;
let checkedAt = 0;
let reinstalls = 0;

/** Tells the core what the process exits with: earlier listeners may have changed it, later ones may still. */
function noteExit(code: number): void {
  const { reallyExit } = process as Exiting;
  native().exiting(Number(process.exitCode ?? code));
  if (reallyExit === undefined) return;
  (process as Exiting).reallyExit = (last?: number) => {
    native().exiting(Number(last ?? 0));
    reallyExit.call(process, last);
  };
}

function onExit(code: number): void {
  if (isMainThread) noteExit(code);
  reportAtExit(watched.keys());
}

/** Called when a segment is made: ours is the last of the listeners of 'exit' again. */
function listenForExit(): void {
  if (process.listeners('exit').at(-1) === onExit) return;
  process.off('exit', onExit);
  process.on('exit', onExit);
}

function hasListeners(segment: EventTarget): boolean {
  return EVENTS.some((event) => getEventListeners(segment, event).length > 0);
}

/** Called when somebody begins to listen. */
export function keepWhileListened(region: Region, segment: EventTarget): void {
  const entry = watched.get(region);
  if (entry !== undefined && hasListeners(segment)) entry.kept = segment;
}

/** What has happened to one segment since it was last told. Its listeners may close it. */
function tell(entry: Watched, segment: EventTarget): void {
  const { region } = entry;
  for (const stall of region.call((core, id) => core.regionTakeStalls(id, entry.stalls))) {
    entry.stalls = stall.serial;
    segment.dispatchEvent(new StallEvent(stall));
    if (region.closed) return;
  }
  for (const failure of region.call((core, id) => core.regionTakeFailures(id, entry.failures))) {
    entry.failures = failure.serial;
    segment.dispatchEvent(new PageErrorEvent(failureError(failure), failure.store));
    if (region.closed) return;
  }
}

/** Our handlers were lost since the last time. The core's own thread looks after them, too, unless it could not be made. */
function lostHandlers(): boolean {
  const now = performance.now();
  const due = now - checkedAt > 0.9 * native().pollInterval();
  if (due) checkedAt = now;
  const before = reinstalls;
  reinstalls = native().checkHandlers(due);
  return reinstalls > before;
}

/** A segment of another thread may want more often, or less, than when the timer was set. */
function adjust(): void {
  const wanted = Math.min(INTERVAL_MS, native().pollInterval());
  if (timer === undefined || wanted === interval) return;
  clearInterval(timer);
  interval = wanted;
  timer = setInterval(look, interval).unref();
}

function look(): void {
  const lost = lostHandlers();
  for (const entry of watched.values()) {
    const segment = entry.target.deref();
    if (segment === undefined || entry.region.closed) continue;
    if (lost) segment.dispatchEvent(new HandlerLostEvent(reinstalls));
    if (!entry.region.closed) tell(entry, segment);
    if (entry.kept !== undefined && !hasListeners(segment)) entry.kept = undefined;
  }
  for (const store of lingering) {
    if (native().regionIsOpen(store.id)) continue;
    lingering.delete(store);
    store.ended().catch(() => {}); // nobody is left to be told
  }
  rest();
  adjust();
}

function run(): void {
  if (timer === undefined) {
    reinstalls = native().checkHandlers(true); // what was before is nobody's who listens now
    checkedAt = performance.now();
    interval = INTERVAL_MS;
    timer = setInterval(look, interval).unref();
  }
  adjust();
}

function rest(): void {
  if (watched.size > 0 || lingering.size > 0) return;
  clearInterval(timer);
  timer = undefined;
}

/** Closes the store once the region has ended, which another thread or the collector will bring about. */
export function linger(id: number, ended: () => Promise<void>): void {
  lingering.add({ id, ended });
  run();
}

interface Collected {
  region: Region;
  ended: (() => Promise<void>) | undefined;
}

/** A segment collected unclosed, and its buffer with it: its region ends here. */
const collected = new FinalizationRegistry<Collected>(({ region, ended }) => {
  watched.delete(region);
  closeCollected(region);
  region.close();
  if (ended !== undefined) linger(region.id, ended);
  rest();
});

/** Segments live as long as their buffers: a view may be all that the user keeps, beside a listener. */
const owners = new WeakMap<object, EventTarget>();

/** `memory`: a buffer, or what has one. */
export function keepWith(memory: object, segment: EventTarget): void {
  owners.set(memory, segment);
}

/** From here to `unwatch` the segment gets its events. */
export function watch(region: Region, segment: EventTarget, ended: (() => Promise<void>) | undefined): void {
  listenForExit();
  watched.set(region, { region, target: new WeakRef(segment), kept: undefined, ...native().eventSerials() });
  collected.register(segment, { region, ended }, region);
  run();
}

export function unwatch(region: Region): void {
  watched.delete(region);
  collected.unregister(region);
  rest();
}
