//! The closed set of event types.

use schemars::JsonSchema;
use serde::Serialize;

/// What happened, as the relay tells events apart: a topic each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub enum Kind {
    /// A customer's payment arrived.
    PaymentReceived,
    /// A customer's payment failed.
    PaymentFailed,
    /// A payout was accepted; it is not yet with its beneficiary.
    PayoutInitiated,
    /// A payout failed at ClickPesa and its money is back.
    PayoutRefunded,
    /// A payout failed at the provider and its money is back.
    PayoutReversed,
    /// Money was paid into the ClickPesa account.
    DepositReceived,
    /// A checkout link was paid: the flat body that goes to its `callbackUrl`.
    CheckoutCompleted,
    /// Authentic, and not understood.
    Unrecognized,
}

impl Kind {
    /// Every kind, in the order in which topics are listed.
    pub const ALL: [Self; 8] = [
        Self::PaymentReceived,
        Self::PaymentFailed,
        Self::PayoutInitiated,
        Self::PayoutRefunded,
        Self::PayoutReversed,
        Self::DepositReceived,
        Self::CheckoutCompleted,
        Self::Unrecognized,
    ];

    /// The kind that ClickPesa's name of an event stands for, in any case and with any blanks,
    /// dots, dashes or underscores between its words.
    pub fn of_event(name: &str) -> Option<Self> {
        let separator = |c: char| c.is_whitespace() || matches!(c, '_' | '-' | '.');
        let mut words = name.split(separator).filter(|word| !word.is_empty());
        let (Some(noun), Some(verb), None) = (words.next(), words.next(), words.next()) else {
            return None;
        };
        Self::ALL.into_iter().filter(|kind| kind.is_named_by_clickpesa()).find(|kind| {
            let (known_noun, known_verb) = kind.suffix().split_once('.').unwrap_or_default();
            noun.eq_ignore_ascii_case(known_noun) && verb.eq_ignore_ascii_case(known_verb)
        })
    }

    fn is_named_by_clickpesa(self) -> bool {
        !matches!(self, Self::CheckoutCompleted | Self::Unrecognized)
    }

    /// The end of the topic's name, of the CloudEvents type, and the label in metrics.
    pub fn suffix(self) -> &'static str {
        self.ce_type().strip_prefix("com.clickpesa.").unwrap_or_default()
    }

    /// The CloudEvents `type`.
    pub fn ce_type(self) -> &'static str {
        match self {
            Self::PaymentReceived => "com.clickpesa.payment.received",
            Self::PaymentFailed => "com.clickpesa.payment.failed",
            Self::PayoutInitiated => "com.clickpesa.payout.initiated",
            Self::PayoutRefunded => "com.clickpesa.payout.refunded",
            Self::PayoutReversed => "com.clickpesa.payout.reversed",
            Self::DepositReceived => "com.clickpesa.deposit.received",
            Self::CheckoutCompleted => "com.clickpesa.checkout.completed",
            Self::Unrecognized => "com.clickpesa.unrecognized",
        }
    }

    /// The CloudEvents `dataschema`: the schema that `clickpesa-relay schema` prints.
    pub fn dataschema(self) -> &'static str {
        match self {
            Self::PaymentReceived => "urn:clickpesa-relay:schema:payment.received:1",
            Self::PaymentFailed => "urn:clickpesa-relay:schema:payment.failed:1",
            Self::PayoutInitiated => "urn:clickpesa-relay:schema:payout.initiated:1",
            Self::PayoutRefunded => "urn:clickpesa-relay:schema:payout.refunded:1",
            Self::PayoutReversed => "urn:clickpesa-relay:schema:payout.reversed:1",
            Self::DepositReceived => "urn:clickpesa-relay:schema:deposit.received:1",
            Self::CheckoutCompleted => "urn:clickpesa-relay:schema:checkout.completed:1",
            Self::Unrecognized => "urn:clickpesa-relay:schema:unrecognized:1",
        }
    }
}
