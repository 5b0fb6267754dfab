/** Imports a store module, opens the store and checks what it is. Runs in the pager's Worker. */

import { fileURLToPath } from 'node:url';
import { shown } from '../errors/argument.js';
import { reasonOf } from '../errors/reason.js';
import { StoreError, type StoreErrorCode } from '../errors/store-error.js';
import type { PageStore } from '../stores/contract.js';

function refuse(code: StoreErrorCode, message: string, cause?: unknown): never {
  throw new StoreError(code, message, { cause });
}

async function importStore(moduleUrl: string, who: string): Promise<(options: unknown) => unknown> {
  let module: { default?: unknown };
  try {
    module = (await import(moduleUrl)) as { default?: unknown };
  } catch (error) {
    const { code, url } = error as { code?: unknown; url?: unknown };
    if (code === 'ERR_MODULE_NOT_FOUND' && url === moduleUrl) {
      refuse('ERR_PAGEFAULT_STORE_MODULE', `${who} does not exist`, error);
    }
    refuse('ERR_PAGEFAULT_STORE_MODULE', `${who} cannot be imported: ${reasonOf(error)}`, error);
  }
  if (!('default' in module)) {
    refuse(
      'ERR_PAGEFAULT_STORE_MODULE',
      `${who} has no default export; it must export a function that returns a store`,
    );
  }
  const open = module.default;
  if (typeof open !== 'function') {
    refuse('ERR_PAGEFAULT_STORE_MODULE', `the default export of ${who} must be a function, not ${shown(open)}`);
  }
  return open as (options: unknown) => unknown;
}

/** Throws unless the object is a store. Reads each property once, so that a getter that throws is reported too. */
function checkStore(store: unknown, who: string, writable: boolean): asserts store is PageStore {
  if (typeof store !== 'object' || store === null) {
    refuse('ERR_PAGEFAULT_STORE_INVALID', `${who} returned ${shown(store)} instead of a store`);
  }
  const given = store as Record<keyof PageStore, unknown>;
  const { byteLength, pageSize, concurrency, longestRead, read, write, onWrite, sync, close } = given;
  if (typeof read !== 'function') {
    refuse('ERR_PAGEFAULT_STORE_INVALID', `the store of ${who} has no function read, but ${shown(read)}`);
  }
  for (const [name, value] of Object.entries({ write, onWrite, sync, close })) {
    if (value === undefined || typeof value === 'function') continue;
    refuse('ERR_PAGEFAULT_STORE_INVALID', `${name} of the store of ${who} must be a function, not ${shown(value)}`);
  }
  if (writable && write === undefined) {
    refuse(
      'ERR_PAGEFAULT_STORE_READ_ONLY',
      `the store of ${who} has no function write, so it cannot be mapped with writable: true`,
    );
  }
  checkNumber('byteLength', byteLength, 0, who);
  if (pageSize !== undefined) checkNumber('pageSize', pageSize, 1, who);
  if (concurrency !== undefined) checkNumber('concurrency', concurrency, 1, who);
  if (longestRead !== undefined) checkNumber('longestRead', longestRead, 1, who);
}

function checkNumber(name: string, value: unknown, least: number, who: string): void {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least) return;
  refuse(
    'ERR_PAGEFAULT_STORE_INVALID',
    `${name} of the store of ${who} must be a whole number from ${least} to 2^53 - 1, not ${shown(value)}`,
  );
}

/** The store, opened and checked. Throws a StoreError; nothing stays open then. */
export async function openStore(moduleUrl: string, options: unknown, writable: boolean): Promise<PageStore> {
  const who = `store module ${fileURLToPath(moduleUrl)}`;
  const open = await importStore(moduleUrl, who);
  let store: unknown;
  try {
    store = await open(options);
  } catch (error) {
    refuse('ERR_PAGEFAULT_STORE_OPEN', `${who} could not open its store: ${reasonOf(error)}`, error);
  }
  try {
    checkStore(store, who, writable);
    return store;
  } catch (error) {
    const { close } = (store ?? {}) as { close?: unknown };
    // The first error is the one to tell.
    if (typeof close === 'function') await (async () => close.call(store))().catch(() => {});
    if (error instanceof StoreError) throw error;
    refuse('ERR_PAGEFAULT_STORE_INVALID', `the store of ${who} cannot be looked at: ${reasonOf(error)}`, error);
  }
}
