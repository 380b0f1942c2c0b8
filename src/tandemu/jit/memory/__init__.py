"""Guest memory below generated code: slots, TLBs, page flags, and forgetting what they hold."""
