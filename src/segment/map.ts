/** `map`: opens a store and puts it behind a buffer. Runs on the thread that will hold the segment. */

import { fromNative } from '../errors/from-native.js';
import type { NativeRegionOptions } from '../native/binding.js';
import { native, probe } from '../native/load.js';
import type { StoreRef } from '../stores/ref.js';
import { type Choice, chooseBackend } from './backend.js';
import { budgetId } from './budget.js';
import { wasmBuffer } from './memory.js';
import { type CheckedOptions, checkBudget, checkOptions, choosePageSize, type MapOptions } from './options.js';
import { checkHeld, shownPart } from './range.js';
import { Region } from './region.js';
import { Segment } from './segment.js';
import { checkStoreRef, describeStore, openSource, type Source } from './source.js';

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
): { id: number; address: bigint } {
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
  const pageSize = choosePageSize(options.pageSize, source.pageSize, native().systemPageSize());
  checkHeld(part.byteLength, options.shared);
  return {
    byteLength: part.byteLength,
    pageSize,
    backend: choice.backend,
    source: source.native(part.offset, part.storeLength),
    storeLength: part.storeLength,
    readahead: options.readahead,
    budget: 0,
    faultTimeoutMs: options.faultTimeoutMs,
    unreadable: options.unreadable,
    name: options.name ?? storeName,
    storeName,
  };
}

function build(ref: StoreRef, source: Source, options: CheckedOptions, choice: Choice, given: () => void): Segment {
  const wanted = regionOptions(ref, source, options, choice);
  let into: SharedArrayBuffer | undefined;
  if (options.shared && !probe().externalSharedArrayBuffer) {
    into = wasmBuffer(wanted.byteLength, wanted.pageSize);
    wanted.into = new Uint8Array(into);
  }
  const { id, address } = createRegion(wanted, options.resident);
  given();
  const shared = into ?? (options.shared ? sharedBufferOf(id) : undefined);
  const region = new Region(id, wanted.name, wanted.byteLength, wanted.pageSize);
  const { backend, reason } = choice;
  const buffer = shared ?? (() => region.call((core) => core.regionArrayBuffer(id)));
  return new Segment({ region, buffer, address, backend, backendReason: reason, ended: source.ended });
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
  const choice = chooseBackend(checked.backend, probe());

  const source = await openSource(store, checked);
  let undo: (() => Promise<void>) | undefined = () => source.abandon();
  try {
    checked.signal?.throwIfAborted();
    return build(store, source, checked, choice, () => {
      undo = source.ended; // what was opened belongs to the region now
      source.given?.();
    });
  } catch (error) {
    await undo?.().catch(() => {}); // the first error is the one to tell
    throw fromNative(error, { name: checked.name ?? describeStore(store), pageSize: 0 });
  }
}
