/**
 * The pager's Worker: opens and closes stores when the thread that maps asks for it, and serves their faults. Nothing
 * here awaits process.stdout, which the main thread pumps, because the main thread may be the one that is stopped.
 */

import { stat } from 'node:fs/promises';
import { parentPort } from 'node:worker_threads';
import { serializeCause } from '../errors/cause.js';
import { reasonOf } from '../errors/reason.js';
import { StoreError } from '../errors/store-error.js';
import { native } from '../native/load.js';
import type { FromWorker, ToWorker } from './protocol.js';
import { PagerServer } from './server.js';
import { openStore } from './store-module.js';

const port = parentPort;
if (port === null) throw new Error('pager/worker.js is started by pager/host.js');

function post(message: FromWorker): void {
  port?.postMessage(message);
}

function refuse(request: number, error: unknown, code: StoreError['code']): void {
  const sentence = reasonOf(error);
  const ours = error instanceof StoreError;
  const cause = serializeCause(ours ? error.cause : error);
  post({ type: 'refused', request, code: ours ? error.code : code, message: sentence, cause });
}

const server = new PagerServer(native());

async function open(message: ToWorker & { type: 'open' }): Promise<void> {
  const { request, moduleUrl, options, part } = message;
  const store = await openStore(moduleUrl, options, part.writable);
  const { number, byteLength } = server.add(store, part);
  const { pageSize, longestRead } = store;
  const onWrite = store.onWrite !== undefined;
  post({ type: 'opened', request, store: number, byteLength, pageSize, longestRead, onWrite });
}

async function close(message: ToWorker & { type: 'close' }): Promise<void> {
  await server.remove(message.store);
  post({ type: 'closed', request: message.request });
}

// Told from in here, because the thread that maps may be stopped and hear nothing of this Worker's end.
process.on('uncaughtExceptionMonitor', (error: unknown) => {
  const caught = process.listenerCount('uncaughtException') > 0 || process.hasUncaughtExceptionCaptureCallback();
  if (!caught) server.stop(`the store's Worker ended with an uncaught exception: ${reasonOf(error)}`); // else it goes on
});
process.on('exit', (code) => server.stop(`the store's Worker exited with code ${code}`));

// Starts libuv's threads now: the core may keep this thread on one CPU while it serves, and threads inherit that.
await stat('.').catch(() => {});
post({ type: 'ready', pager: server.start() });

// Last, so that nothing is answered before the thread that maps has heard of this pager.
port.on('message', (message: ToWorker) => {
  const done = message.type === 'open' ? open(message) : close(message);
  done.catch((error: unknown) => {
    refuse(message.request, error, message.type === 'open' ? 'ERR_PAGEFAULT_STORE_OPEN' : 'ERR_PAGEFAULT_STORE_CLOSE');
  });
});
