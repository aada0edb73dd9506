/* Loaded before all else by a worker whose clock is wrong: by CHAOS_SKEW_MS milliseconds, ahead or behind. */

const skewMs = Number(process.env.CHAOS_SKEW_MS ?? 0);
const RightDate = Date;

class WrongDate extends RightDate {
  constructor(...args: readonly []) {
    super(...(args.length === 0 ? ([RightDate.now() + skewMs] as unknown as []) : args));
  }

  static override now(): number {
    return RightDate.now() + skewMs;
  }
}

globalThis.Date = WrongDate as DateConstructor;
