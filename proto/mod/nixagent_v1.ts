export * from "../gen/ultracloud/nixagent/v1/nixagent_pb.ts";
