import { createHmac } from "node:crypto";

/** Headers that say which delivery this is and prove who sent it (the Standard Webhooks convention). */
export function signedHeaders(
  { id, timeMs, body }: {
    readonly id: string;
    readonly timeMs: number;
    readonly body: string;
  },
  secret: string,
): Readonly<Record<string, string>> {
  const timestamp = String(Math.floor(timeMs / 1_000));
  const signature = createHmac("sha256", secret).update(
    `${id}.${timestamp}.${body}`,
  ).digest("base64");
  return {
    "webhook-id": id,
    "webhook-timestamp": timestamp,
    "webhook-signature": `v1,${signature}`,
  };
}
