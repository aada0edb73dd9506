import type { Prompt } from "./define-prompt.ts";
import { diagnosePodLog } from "./diagnose-pod-log.ts";
import { explainRepository } from "./explain-repository.ts";
import { reviewDiff } from "./review-diff.ts";

/** The prompts that this server offers, in the order in which clients see them. */
export const prompts: readonly Prompt[] = [diagnosePodLog, explainRepository, reviewDiff];
