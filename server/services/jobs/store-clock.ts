/** The clock of a service, told from its answers. */
export interface ServiceClock {
  /** Milliseconds since 1970. This machine's until the service has answered for the first time. */
  now(): number;
  /** An answer's `Date` header; times on this machine's monotonic clock, of the request and of the answer. */
  answered(date: string | undefined, sentAt: number, answeredAt: number): void;
  /** The service has written a time, so that it is no earlier there now. Milliseconds since 1970. */
  isAfter(time: number): void;
}

/** What a `Date` header leaves out (RFC 9110, section 5.6.7: whole seconds). */
const DATE_RESOLUTION_MS = 1000;

/**
 * Keeps how far the service's clock is ahead of this machine's monotonic one, which nobody sets. A date is up to a second
 * late, and says so much: at the answer it was no earlier, and at the request less than a second later. Each answer
 * narrows that down, so that the time is right to some milliseconds after a few, and does not go back.
 */
export function createServiceClock(monotonic: () => number = () => performance.now()): ServiceClock {
  let ahead: number | undefined;
  const atLeast = (bound: number) => {
    ahead = Math.max(ahead ?? bound, bound);
  };
  return {
    now: () => Math.floor(ahead === undefined ? Date.now() : ahead + monotonic()),
    answered(date, sentAt, answeredAt) {
      const time = Date.parse(date ?? "");
      if (Number.isNaN(time)) return;
      atLeast(time - answeredAt);
      // Clocks drift apart: what was right an hour ago may be too far ahead by now.
      ahead = Math.min(ahead ?? Number.POSITIVE_INFINITY, time + DATE_RESOLUTION_MS - sentAt);
    },
    isAfter: (time) => atLeast(time - monotonic()),
  };
}
