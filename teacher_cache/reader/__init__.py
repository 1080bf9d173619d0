"""Store in, targets for trainers out: cache, torch datasets, resumable sampler, local disk tier, joined stores."""
