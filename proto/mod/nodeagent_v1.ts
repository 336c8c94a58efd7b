export * from "../gen/ultracloud/nodeagent/v1/nodeagent_pb.ts";
