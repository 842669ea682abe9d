"""What the verbs do once torch may be imported."""
