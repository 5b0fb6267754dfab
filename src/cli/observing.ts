/** `--metrics PORT` and `--events FILE`: the options of every command that serves guests. Main thread. */
import { type Observation, type ObservedServer, type ObserveServerOptions, observeServer } from '../observe/index.js';
import type { Arguments, Option } from './command.js';
import { usageError } from './exit.js';

/** To be spread into the options of a command. */
export const OBSERVING_OPTIONS: Readonly<Record<string, Option>> = {
  metrics: {
    value: 'PORT',
    help: 'Prometheus metrics on 127.0.0.1:PORT, and what pagefault top reads; 0: a free port',
  },
  events: { value: 'FILE', help: 'what happens, a JSON object a line, appended to FILE; - is stdout' },
};

/** Checked before anything is started. */
export function observingOf(args: Arguments): ObserveServerOptions {
  const metricsPort = args.count('metrics', 0);
  const events = args.text('events');
  if (metricsPort !== undefined && metricsPort > 65_535) {
    throw usageError(`--metrics must be a port from 0 (any) to 65535, not '${metricsPort}'`);
  }
  return {
    ...(metricsPort === undefined ? {} : { metricsPort }),
    ...(events === undefined ? {} : { events }),
  };
}

/** Says on stderr where metrics are; undefined where nothing was asked for. */
export async function observing(
  server: ObservedServer,
  options: ObserveServerOptions,
): Promise<Observation | undefined> {
  if (options.metricsPort === undefined && options.events === undefined) return undefined;
  const observation = await observeServer(server, options);
  const { metricsPort } = observation;
  if (metricsPort !== undefined) process.stderr.write(`metrics: http://127.0.0.1:${metricsPort}/metrics\n`);
  return observation;
}

/** Where a command says what it has to say: stderr where stdout is for events. */
export function speaksTo({ events }: ObserveServerOptions): NodeJS.WriteStream {
  return events === '-' ? process.stderr : process.stdout;
}
