"""Which provider an installation has. What is half configured does not start."""

from chat_app.credits.payments.offline import Offline
from chat_app.credits.payments.provider import Provider
from chat_app.credits.payments.stripe import Stripe
from chat_app.settings import Payments, SettingsError


def create(settings: Payments) -> Provider:
    """The provider of the settings; raises SettingsError naming what it lacks."""
    if settings.provider == "offline":
        return Offline()
    key, secret = settings.stripe_api_key, settings.stripe_webhook_secret
    for name, value in (("STRIPE_API_KEY", key), ("STRIPE_WEBHOOK_SECRET", secret)):
        if not value.get_secret_value().strip():
            raise SettingsError(
                f"Payments by stripe need CHAT_APP_PAYMENTS__{name}. "
                "Set it in the environment, or choose the provider offline."
            )
    return Stripe(
        api_key=key.get_secret_value().strip(),
        webhook_secret=secret.get_secret_value().strip(),
        api_base=settings.stripe_api_base,
    )
