-- What a token lets in: a TPM only, unless the operator said otherwise, with the labels that the operator chose.
-- Tokens from before are for a TPM and give no labels. Gateways from before keep the labels that they have.
ALTER TABLE join_token ADD COLUMN allow_software INTEGER NOT NULL DEFAULT 0;
ALTER TABLE join_token ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
