/** `map`: opens a store and puts it behind a buffer. Runs on the thread that will hold the segment. */

import { fromNative } from '../errors/from-native.js';
import type { NativeBinding, NativeRegionOptions } from '../native/binding.js';
import { native, probe } from '../native/load.js';
import type { StoreRef } from '../stores/ref.js';
import { type Choice, chooseBackend, withTracking } from './backend.js';
import { budgetId } from './budget.js';
import { keep, limitPageSize, place } from './into.js';
import { wasmBuffer } from './memory.js';
import { type CheckedOptions, checkBudget, checkOptions, choosePageSize, type MapOptions } from './options.js';
import { checkHeld, shownPart } from './range.js';
import { Region } from './region.js';
import { Segment } from './segment.js';
import { checkStoreRef, describeStore, openSource, type Source } from './source.js';
import { storeIdentity } from './store-identity.js';
import { prepareWorkingSet, SegmentWorkingSet, type WorkingSetParts } from './working-set.js';

/** The core's id of the budget, and whether it is this call's to release. */
function takeBudget(resident: CheckedOptions['resident'], pageSize: number): { id: number; own: boolean } {
  if (resident === undefined) return { id: 0, own: false };
  if (typeof resident !== 'number') {
    const id = budgetId(resident);
    checkBudget(resident.limit, pageSize);
    return { id, own: false };
  }
  checkBudget(resident, pageSize);
  return { id: native().budgetCreate(resident), own: true };
}

/** Makes the region. On a throw there is none, and the source is still the caller's. */
function createRegion(
  options: NativeRegionOptions,
  resident: CheckedOptions['resident'],
): ReturnType<NativeBinding['regionCreate']> {
  const budget = takeBudget(resident, options.pageSize);
  try {
    return native().regionCreate({ ...options, budget: budget.id });
  } finally {
    if (budget.own) native().budgetRelease(budget.id); // it lives on with its region
  }
}

/** A SharedArrayBuffer over a region's memory; the region is closed if there can be none. */
function sharedBufferOf(id: number): SharedArrayBuffer {
  try {
    const buffer = native().regionSharedArrayBuffer(id);
    if (buffer !== undefined) return buffer;
    throw new Error('the runtime made no SharedArrayBuffer, though it says that it can');
  } catch (error) {
    native().regionClose(id, undefined, true);
    throw error;
  }
}

function regionOptions(ref: StoreRef, source: Source, options: CheckedOptions, choice: Choice): NativeRegionOptions {
  const storeName = describeStore(ref);
  const part = shownPart(source.byteLength, storeName, options);
  const chosen = choosePageSize(options.pageSize, source.pageSize, native().systemPageSize());
  const pageSize = limitPageSize(options.into, options.pageSize, chosen);
  if (options.into === undefined) checkHeld(part.byteLength, options.shared);
  return {
    byteLength: part.byteLength,
    pageSize,
    backend: choice.backend,
    source: source.native(part.offset, part.storeLength),
    storeLength: part.storeLength,
    readahead: options.readahead,
    longestRead: source.longestRead ?? 0,
    budget: 0,
    faultTimeoutMs: options.faultTimeoutMs,
    stallAfterMs: options.stallAfterMs,
    pollIntervalMs: options.pollIntervalMs,
    writable: options.writable,
    onWrite: options.writable && source.onWrite === true,
    unreadable: options.unreadable,
    name: options.name ?? storeName,
    storeName,
  };
}

/** The memory of a segment, before it has a region. */
interface Taken {
  into?: Uint8Array;
  intoGrows?: boolean;
  hold?: number;
  bufferOffset: number;
  /** Undefined: the core's own, to be made into a buffer later. */
  buffer: ArrayBuffer | SharedArrayBuffer | undefined;
}

/** Memory that exists: the user's, or, where the runtime cannot share the core's, that of a WebAssembly.Memory. */
function takeMemory({ byteLength, pageSize, backend }: NativeRegionOptions, options: CheckedOptions): Taken {
  const { into } = options;
  if (into !== undefined) {
    const { bytes, bufferOffset, grows } = place(into, byteLength, pageSize, backend);
    return { into: bytes, intoGrows: grows, hold: keep(into), bufferOffset, buffer: into.buffer };
  }
  if (!options.shared || probe().externalSharedArrayBuffer) return { bufferOffset: 0, buffer: undefined };
  const { buffer, hold } = wasmBuffer(byteLength, pageSize);
  return { into: new Uint8Array(buffer), hold, bufferOffset: 0, buffer };
}

/** Undoes the region where its working set cannot be set up. */
function workingSetOf(region: Region, parts: Omit<WorkingSetParts, 'region'>): SegmentWorkingSet {
  try {
    return new SegmentWorkingSet({ region, ...parts });
  } catch (error) {
    native().regionClose(region.id, undefined, true);
    region.close();
    throw error;
  }
}

function build(
  ref: StoreRef,
  source: Source,
  options: CheckedOptions,
  choice: Choice,
  wished: Omit<WorkingSetParts, 'region'> | undefined,
  given: () => void,
): Segment {
  const wanted = regionOptions(ref, source, options, choice);
  const { bufferOffset, buffer: taken, ...memory } = takeMemory(wanted, options);
  const { id, address, tracking } = createRegion({ ...wanted, ...memory }, options.resident);
  given();
  const existing = taken ?? (options.shared ? sharedBufferOf(id) : undefined);
  const region = new Region({ id, ...wanted });
  const backendReason = withTracking(choice, tracking, wanted.onWrite);
  const buffer = existing ?? (() => region.call((core) => core.regionArrayBuffer(id)));
  const held = { buffer, bufferOffset, wasm: options.into?.wasm, exists: options.into !== undefined };
  const workingSet = wished === undefined ? undefined : workingSetOf(region, wished);
  return new Segment({
    region,
    ...held,
    address,
    backend: choice.backend,
    backendReason,
    workingSet,
    origin: { store: ref, offset: options.offset },
    ended: source.ended,
  });
}

/**
 * Puts a store behind a buffer: each page is read when it is touched.
 *
 * @example
 * const segment = await map(file('vectors.f32'), { resident: '256MiB' });
 * try {
 *   console.log(segment.view(Float32Array)[12_345_678]);
 * } finally {
 *   await segment.close();
 * }
 */
export async function map(store: StoreRef, options: MapOptions = {}): Promise<Segment> {
  checkStoreRef(store);
  const checked = checkOptions(options);
  checked.signal?.throwIfAborted();
  const choice = chooseBackend(checked, probe());
  const { workingSet, offset } = checked;
  const prepared = workingSet === undefined ? undefined : await prepareWorkingSet(workingSet);

  const source = await openSource(store, checked);
  let undo: (() => Promise<void>) | undefined = () => source.abandon();
  try {
    const wished = prepared && { prepared, identity: await storeIdentity(store, offset), store, offset };
    checked.signal?.throwIfAborted();
    return build(store, source, checked, choice, wished, () => {
      undo = source.ended; // what was opened belongs to the region now
      source.given?.();
    });
  } catch (error) {
    await undo?.().catch(() => {}); // the first error is the one to tell
    throw fromNative(error, { name: checked.name ?? describeStore(store), pageSize: 0 });
  }
}
